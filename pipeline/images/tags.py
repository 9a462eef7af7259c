"""Reads directories of tags, as TIFF files, EXIF and MPF blocks have them, and refuses those that ask too much.

Thousands of tags may share one block of values, and Pillow copies it for each of them: kilobytes become gigabytes.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.images.policy import Refused, RejectCode

_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")  # the last two are what Pillow also reads
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by type, bytes
_BYTES_OR_TEXT = (1, 2, 6, 7)
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
# A classic directory's most. With shared values of a few bytes, all of them take Pillow half a second.
_MAX_ENTRIES = 65_535
# A 16-bit transfer function has 196,608; each takes Pillow microseconds.
_MAX_VALUES = 1 << 18
_SLACK_BYTES = 1 << 16
_MAX_BLOCKS = 32  # a file has one or two, and four bytes amid coded ones look like one by a chance of 2^-32


class Entry(NamedTuple):
    """Says where a tag's values are: their type (TIFF's number), how many, and the first one's place in the block."""

    type: int
    values: int
    at: int


@dataclasses.dataclass(frozen=True)
class Directory:
    """Holds the entries of one directory in a block that begins with a TIFF header.

    Attributes:
      block: the TIFF file or EXIF block.
      order: "<" or ">".
      entries: by tag; of a tag that occurs twice the last, as in Pillow.
      claimed: how many bytes all values take, counted anew for each tag; only values that lie in the block.
    """

    block: bytes
    order: str
    entries: dict[int, Entry]
    claimed: int

    def numbers(self, tag: int, default: tuple[int, ...] = (), *, most: int = 16) -> tuple[int, ...]:
        """Returns a tag's first whole numbers; `default` where the tag is missing or holds something else."""
        entry = self.entries.get(tag)
        if entry is None or not entry.values or entry.type not in _WHOLE_NUMBERS:
            return default
        try:
            form = f"{self.order}{min(entry.values, most)}{_WHOLE_NUMBERS[entry.type]}"
            return struct.unpack_from(form, self.block, entry.at)
        except struct.error:  # beyond the end
            return default

    def number(self, tag: int, default: int) -> int:
        return self.numbers(tag, (default,))[0]


def _read(block: bytes, at: int) -> Directory:
    big = block[2] == 43
    order = "<" if block.startswith(b"II") else ">"
    head, row, inline = ("Q", "HHQQ", 8) if big else ("H", "HHLL", 4)
    count = struct.unpack_from(order + head, block, at)[0]
    if count > _MAX_ENTRIES:
        raise Refused(RejectCode.TOO_SLOW, f"a directory of {count} tags")
    start, size = at + struct.calcsize(order + head), struct.calcsize(order + row)
    table = block[start : start + count * size]
    entries, claimed = {}, 0
    for number, (tag, kind, values, offset) in enumerate(
        struct.iter_unpack(order + row, table[: len(table) // size * size])
    ):
        if kind not in _SIZES:
            continue
        length = values * _SIZES[kind]
        place = offset if length > inline else start + number * size + size - inline
        if place + length > len(block):
            continue
        if values > _MAX_VALUES and kind not in _BYTES_OR_TEXT:
            raise Refused(RejectCode.TOO_SLOW, f"tag {tag} has {values} values")
        entries[tag] = Entry(kind, values, place)
        claimed += length
    return Directory(block, order, entries, claimed)


def _reached(block: bytes) -> Iterator[Directory]:
    """Yields the first directory and those below it that Pillow reads, whatever circles they form."""
    at = struct.unpack_from(("<" if block.startswith(b"II") else ">") + "L", block, 8 if block[2] == 43 else 4)[0]
    first = _read(block, at)
    yield first
    for tag, deeper in ((_EXIF, _INTEROPERABILITY), (_GPS, None)):
        if place := first.number(tag, 0):
            below = _read(block, place)
            yield below
            if deeper and (place := below.number(deeper, 0)):
                yield _read(block, place)


def read_tags(block: bytes) -> Directory | None:
    """Reads the first directory of a TIFF file or of an EXIF block.

    Returns:
      It; None where the block has no directory.

    Raises:
      Refused: its tags claim far more bytes or values than an honest block's.
    """
    if not block.startswith(_HEADERS):
        return None
    first, claimed = None, 0
    try:
        for directory in _reached(block):
            first = first or directory
            claimed += directory.claimed
    except (struct.error, OverflowError):  # points beyond the end, or beyond all addresses
        pass
    if claimed > 2 * len(block) + _SLACK_BYTES:
        detail = f"its tags claim {claimed} bytes in a block of {len(block)}"
        raise Refused(RejectCode.TOO_MUCH_MEMORY, detail)
    return first


def check_exif(block: bytes) -> None:
    """Refuses an EXIF block, with or without its "Exif" prefix, as `read_tags` does."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    read_tags(block)


def check_every_block(data: bytes) -> None:
    """Refuses a file as `read_tags` does wherever a block of tags may begin: for containers that we cannot walk.

    A header amid coded pixels does no harm: what follows it there is no directory that claims much.
    """
    for header in _HEADERS:
        at = data.find(header)
        for _ in range(_MAX_BLOCKS):
            if at < 0:
                break
            read_tags(data[at:])
            at = data.find(header, at + 1)
        else:
            raise Refused(RejectCode.TOO_SLOW, f"more than {_MAX_BLOCKS} EXIF blocks")
