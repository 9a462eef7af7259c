"""Looks at what WebP, JPEG 2000, HEIF and AVIF files are made of, as far as it could keep their decoders busy."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.images.policy import MAX_PARTS, Refused, RejectCode, too_many_parts
from pipeline.images.tags import check_exif

CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: its start, and the marker of the sizes
_JPEG2000_BOXES = b"\0\0\0\x0cjP  "
_MAX_COMPONENTS = 4


def check_webp(data: bytes) -> None:
    """Refuses a WebP with an EXIF chunk that asks too much; see `tags.read_tags`."""
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sL", data, at)
        if kind == b"EXIF":
            check_exif(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    raise too_many_parts("WebP chunks")


def _boxes(data: bytes, at: int, end: int, *, within: bytes = b"") -> Iterator[bytes]:
    """Yields the kinds of the boxes, and of those in a box of the kind `within`."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">L4s", data, at)
        head = 8
        if length == 1 and at + 16 <= end:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        length = length or end - at
        yield kind
        if kind == within:
            yield from _boxes(data, at + head, min(at + length, end))
        at += max(length, head)


def check_jpeg2000(data: bytes) -> None:
    """Refuses a JPEG 2000 file of too many boxes, or of more components than colours and transparency need."""
    if data.startswith(_JPEG2000_BOXES):
        for number, _ in enumerate(_boxes(data, 0, len(data), within=b"jp2h")):
            if number >= MAX_PARTS:
                raise too_many_parts("JPEG 2000 boxes")
    start = data.find(CODESTREAM)
    components = int.from_bytes(data[start + 40 : start + 42], "big") if start >= 0 else 0
    if components > _MAX_COMPONENTS:
        raise Refused(RejectCode.UNSUPPORTED, f"JPEG 2000 with {components} components, at most {_MAX_COMPONENTS}")
