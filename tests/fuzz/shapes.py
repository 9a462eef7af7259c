"""Takes files apart by their format and puts parts together again, lengths and checksums made right.

A decoder looks no further at a chunk whose checksum is wrong: what is changed by chance never comes to its middle.
"""

from __future__ import annotations

import itertools
import pickletools
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from pipeline.format.packing import pack, unpack
from pipeline.format.records import frame

_MOST_PARTS = 400
_TAG_BLOCKS = re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+")
_PNG_SIGNATURE = 8
_TAR_BLOCK, _TAR_CHECKSUM = 512, slice(148, 156)
_BOXES = re.compile(rb"meta|iprp|ipco|ipma|iloc|iinf|infe|iref|ispe|pixi|hdlr|pitm|av1C|hvcC|jp2h|ihdr|colr|moov|ftyp")
_NEXT_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]", re.DOTALL)

Order = Literal["big", "little"]
Field = tuple[int, int, Order]  # place, bytes, byte order
Inside = tuple[bytes, Callable[[bytes], bytes]]


class Shape(NamedTuple):
    """Says how files of a format are made.

    Attributes:
      parts: cuts a file; the parts joined are the file.
      join: puts parts together to a file whose lengths and checksums fit.
      fields: lists where numbers stand that a decoder goes by.
      inside: unpacks a part that is compressed, and says how it is packed again; None for other parts.
    """

    parts: Callable[[bytes], list[bytes]]
    join: Callable[[Sequence[bytes]], bytes] = b"".join
    fields: Callable[[bytes], list[Field]] = lambda data: []
    inside: Callable[[bytes], Inside | None] = lambda part: None


def _cut(data: bytes, ends: Iterator[int]) -> list[bytes]:
    """Cuts at these places, which grow; what follows the last one is the last part."""
    parts, at = [], 0
    for end in itertools.islice(ends, _MOST_PARTS):
        if not at < end < len(data):
            break
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def _number(data: bytes, at: int, size: int, order: Order = "big") -> int:
    return int.from_bytes(data[at : at + size], order)


def _tag_fields(data: bytes) -> list[Field]:
    """Lists the numbers of the directories of tags (TIFF, EXIF, MPF) that begin anywhere in a file."""
    fields: list[Field] = []
    for match in itertools.islice(_TAG_BLOCKS.finditer(data), 4):
        start = match.start()
        order: Order = "little" if match[0].startswith(b"I") else "big"
        head, row, wide = (8, 20, 8) if b"+" in match[0] else (2, 12, 4)
        pointer = start + (8 if wide == 8 else 4)
        at = start + _number(data, pointer, wide, order)
        fields += [(pointer, wide, order), (at, head, order)]
        for number in range(min(_number(data, at, head, order), 64)):
            entry = at + head + number * row
            fields += [(entry, 2, order), (entry + 2, 2, order), (entry + 4, wide, order)]
            fields += [(entry + 4 + wide, size, order) for size in (2, wide)]
    return fields


def _png_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        at = _PNG_SIGNATURE
        while at < len(data):
            yield at
            at += 12 + _number(data, at, 4)

    return _cut(data, ends())


def _png_join(parts: Sequence[bytes]) -> bytes:
    def sealed(part: bytes) -> bytes:
        body = part[4:-4]
        return struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body)) if len(part) > 11 else part

    return b"".join([*parts[:1], *map(sealed, parts[1:])])


def _png_inside(part: bytes) -> Inside | None:
    if part[4:8] != b"IDAT":
        return None
    try:
        rows = zlib.decompressobj().decompress(part[8:-4], 1 << 16)
    except zlib.error:
        return None
    return rows, lambda changed: part[:8] + zlib.compress(changed, 1) + part[-4:]


def _png_fields(data: bytes) -> list[Field]:
    return [(16, 4, "big"), (20, 4, "big"), *((at, 1, "big") for at in range(24, 29)), *_tag_fields(data)]


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Yields where segments begin; coded data belong to the start of their scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        yield at
        scan = data[at + 1] == 0xDA
        at += 2 + _number(data, at + 2, 2)
        if scan:
            following = _NEXT_MARKER.search(data, at)
            at = following.start() if following else len(data)


def _jpeg_join(parts: Sequence[bytes]) -> bytes:
    def sealed(part: bytes) -> bytes:
        has_length = len(part) > 4 and part[:1] == b"\xff" and part[1] not in (0xD8, 0xD9, 0xDA)
        return part[:2] + struct.pack(">H", len(part) - 2 & 0xFFFF) + part[4:] if has_length else part

    return b"".join(map(sealed, parts))


def _jpeg_fields(data: bytes) -> list[Field]:
    fields = _tag_fields(data)
    for at in itertools.islice(_jpeg_segments(data), 64):
        fields.append((at + 2, 2, "big"))
        if data[at + 1] in (*range(0xC0, 0xC4), 0xDD):  # a frame's precision, sides, components; the restart interval
            fields += [(at + 4, 1, "big"), (at + 5, 2, "big"), (at + 7, 2, "big")]
            fields += [(at + place, 1, "big") for place in range(9, 19)]
        elif data[at + 1] in (0xC4, 0xDA, 0xDB):
            fields += [(at + place, 1, "big") for place in range(4, 21)]
    return fields


def _riff_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        at = 12
        while at < len(data):
            yield at
            size = _number(data, at + 4, 4, "little")
            at += 8 + size + size % 2

    return _cut(data, ends())


def _riff_join(parts: Sequence[bytes]) -> bytes:
    chunks = [p[:4] + struct.pack("<L", len(p) - 8) + p[8:] + bytes(len(p) % 2) for p in parts[1:] if len(p) >= 8]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def _riff_fields(data: bytes) -> list[Field]:
    heads: list[Field] = [(at, size, "little") for at in range(12, min(len(data), 64)) for size in (1, 2, 4)]
    return heads + _tag_fields(data)


def _box_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        at = _number(data, 0, 4)
        while at < len(data):
            yield at
            at += max(8, _number(data, at, 4))

    return _cut(data, ends())


def _box_join(parts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack(">L", len(p)) + p[4:] if len(p) >= 8 else p for p in parts)


def _box_fields(data: bytes) -> list[Field]:
    fields = _tag_fields(data)
    for match in itertools.islice(_BOXES.finditer(data), 48):
        fields.append((match.start() - 4, 4, "big"))
        fields += [(match.end() + at, size, "big") for at in range(12) for size in (1, 2, 4)]
    stream = data.find(b"\xff\x4f\xff\x51")
    if stream >= 0:  # JPEG 2000: abilities, sides, offsets, tiles, components and how these are sampled
        fields += [(stream + at, 4, "big") for at in range(8, 40, 4)]
        fields += [(stream + at, size, "big") for at, size in ((6, 2), (40, 2), (42, 1), (43, 1), (44, 1))]
    return fields


def _gif_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        at = 13 + (3 * 2 << (data[10] & 7) if len(data) > 10 and data[10] & 0x80 else 0)
        while at < len(data):
            yield at
            kind = data[at]
            at += {0x21: 2, 0x2C: 11}.get(kind, 1)
            while kind in (0x21, 0x2C) and at < len(data):
                size = data[at]
                at += 1 + size
                if not size:
                    break

    return _cut(data, ends())


def _gif_fields(data: bytes) -> list[Field]:
    image = data.find(b",", 13)
    heads: list[Field] = [(at, 2, "little") for at in (6, 8, image + 1, image + 3, image + 5, image + 7)]
    return [*heads, *((at, 1, "little") for at in (10, 11, image + 9, image + 10))]


def _bmp_fields(data: bytes) -> list[Field]:
    return [*((at, 4, "little") for at in range(2, 66, 4)), (26, 2, "little"), (28, 2, "little")]


def _tokens(data: bytes) -> list[bytes]:
    """Cuts text into words, spaces and single other characters."""
    return [*re.findall(rb"\w+|\s+|[^\w\s]", data[: 1 << 12]), data[1 << 12 :]]


def _frame_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        at = 16 + _number(data, 0, 8, "little")
        while at < len(data):
            yield at
            at += 16 + _number(data, at, 8, "little")

    return _cut(data, ends())


def _frame_join(parts: Sequence[bytes]) -> bytes:
    return b"".join(frame(part[12:-4]) if len(part) >= 16 else part for part in parts)


def _tar_parts(data: bytes) -> list[bytes]:
    return _cut(data, itertools.count(_TAR_BLOCK, _TAR_BLOCK))


def _tar_join(parts: Sequence[bytes]) -> bytes:
    def sealed(block: bytes) -> bytes:
        if len(block) != _TAR_BLOCK or block[257:262] != b"ustar":
            return block
        total = sum(block) - sum(block[_TAR_CHECKSUM]) + 8 * 32
        return block[:148] + b"%06o\0 " % total + block[156:]

    return b"".join(map(sealed, parts))


def _pickle_parts(data: bytes) -> list[bytes]:
    def ends() -> Iterator[int]:
        try:
            for _, _, at in itertools.islice(pickletools.genops(data), 1, None):
                yield at or 0
        except Exception:  # whatever it says of what it cannot read
            return

    return _cut(data, ends())


def _entries(data: bytes) -> list[bytes]:
    """Takes a part file's form and entries apart, each as MessagePack."""
    try:
        form, entries = unpack(data)
        return [pack(form), *map(pack, entries[:_MOST_PARTS])]
    except (ValueError, TypeError):
        return [data]


def _entries_join(parts: Sequence[bytes]) -> bytes:
    try:
        form, *entries = map(unpack, parts)
        return pack((form, entries))
    except (ValueError, TypeError, OverflowError):
        return b"".join(parts)


def _entry_inside(part: bytes) -> Inside | None:
    """Unpacks an entry, or a value in one."""
    try:
        entry = unpack(part)
    except (ValueError, TypeError):
        return None
    return (entry, pack) if isinstance(entry, bytes) else None


PLAIN = Shape(lambda data: [data])
TEXT = Shape(_tokens)
FRAMES = Shape(_frame_parts, _frame_join)
TAR = Shape(_tar_parts, _tar_join)
PICKLE = Shape(_pickle_parts)
ENTRIES = Shape(_entries, _entries_join, inside=_entry_inside)
_TAGS = Shape(lambda data: [data], fields=_tag_fields)
_IMAGES = {
    b"\xff\xd8": Shape(lambda data: _cut(data, _jpeg_segments(data)), _jpeg_join, _jpeg_fields),
    b"\x89P": Shape(_png_parts, _png_join, _png_fields, _png_inside),
    b"RI": Shape(_riff_parts, _riff_join, _riff_fields),
    b"GI": Shape(_gif_parts, fields=_gif_fields),
    b"BM": Shape(lambda data: [data[:14], data[14:54], data[54:]], fields=_bmp_fields),
    b"II": _TAGS,
    b"MM": _TAGS,
    b"\0\0": Shape(_box_parts, _box_join, _box_fields),
    b"\xff\x4f": Shape(lambda data: _cut(data, _jpeg_segments(data)), fields=_box_fields),
    **{b"P%d" % number: TEXT for number in range(1, 7)},
}


def image_shape(data: bytes) -> Shape:
    """Chooses by a file's first bytes."""
    return _IMAGES.get(data[:2], PLAIN)
