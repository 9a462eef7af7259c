"""Reads the blocks of a GIF file.

Pillow joins comments a sub-block at a time, each time copying what it has: 64 MB in sub-blocks of one byte take hours.
"""

from __future__ import annotations

from pipeline.images.policy import MAX_PARTS, too_many_parts

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
# 64 MB of the longest sub-blocks are 263,000.
_MAX_SUB_BLOCKS = 1_000_000


def _palette_bytes(flags: int) -> int:
    return 3 * 2 << (flags & 7) if flags & 0x80 else 0


class _Walk:
    """Walks a GIF's blocks; `at` is never beyond the end of `data` by more than a palette."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 13 + (_palette_bytes(data[10]) if len(data) > 10 else 0)
        self._sub_blocks = 0
        self._blocks = 0
        self.control = b""

    def _skip_sub_blocks(self) -> None:
        data, at = self.data, self.at
        for _ in range(_MAX_SUB_BLOCKS - self._sub_blocks):
            if at >= len(data) or not data[at]:
                self.at = at + 1
                return
            self._sub_blocks += 1
            at += 1 + data[at]
        raise too_many_parts("GIF sub-blocks", limit=_MAX_SUB_BLOCKS)

    def next_image(self) -> int | None:
        """Goes to behind the next image and returns where it begins; None where there is none."""
        data = self.data
        while self.at < len(data) and data[self.at] != _TRAILER:
            self._blocks += 1
            if self._blocks > MAX_PARTS:
                raise too_many_parts("GIF blocks")
            begin, kind = self.at, data[self.at]
            if kind == _EXTENSION:
                self.at += 2
                self._skip_sub_blocks()
                if data[begin + 1 : begin + 2] == bytes([_GRAPHIC_CONTROL]):
                    self.control = data[begin : self.at]
            elif kind == _IMAGE:
                self.at += 11 + (_palette_bytes(data[begin + 9]) if begin + 9 < len(data) else 0)
                self._skip_sub_blocks()
                return begin
            else:  # padding, which decoders skip
                self.at += 1
        return None


def first_frame(data: bytes) -> bytes:
    """Returns a GIF of the first frame alone: without comments and without what programs leave for each other.

    Raises:
      Refused: the file has more blocks than any honest one.
    """
    walk = _Walk(data)
    head = data[: walk.at]
    begin = walk.next_image()
    return head + walk.control + (b"" if begin is None else data[begin : walk.at]) + b";"


def count_frames(data: bytes) -> int:
    """Counts the images of a GIF file; Refused as in `first_frame`."""
    walk = _Walk(data)
    frames = 0
    while walk.next_image() is not None:
        frames += 1
    return frames
