"""Removes metadata from JPEG files without touching the picture, and says whether it holds a position (GPS)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_START_OF_SCAN, _END = 0xDA, 0xD9
_COMMENT = 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
# Application marker → how the data begin that say how the picture is shown; all others are metadata: EXIF and XMP (1),
# further pictures (2, "MPF"), IPTC (13), makers' own.
_SHOWING = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_GPS_POINTER, _LATITUDE, _ENTRY_BYTES = 0x8825, 2, 12


class _Segment(NamedTuple):
    """Places a part of a file: from its marker to the next one, with the coded data that follow a start of scan."""

    marker: int
    start: int
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yields the segments between the start and the end of the picture. Raises ValueError where they do not join."""
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        marker = data[at + 1] if at + 1 < len(data) and data[at] == 0xFF else None
        if marker == _END:
            yield _Segment(marker, at, at + 2)
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker is None or end < at + 4 or end > len(data):
            raise ValueError(f"no whole JPEG: no segment at byte {at}")
        if marker == _START_OF_SCAN:
            end = _next_marker(data, end)
        yield _Segment(marker, at, end)
        at = end


def _next_marker(data: bytes, at: int) -> int:
    """Finds the marker after coded data, which hold 0xff only before a zero or a restart's number."""
    found = _MARKER.search(data, at)
    if found is None:
        raise ValueError("no whole JPEG: no end marker")
    return found.start()


def without_metadata(data: bytes) -> bytes:
    """Removes EXIF, XMP, IPTC, comments, makers' data and whatever follows the picture from a JPEG file.

    What says how the picture is shown stays (JFIF, Adobe, the colour profile), but for EXIF's orientation; the coded
    pixels stay as they are.

    Args:
      data: a whole JPEG file.

    Raises:
      ValueError: it is none.
    """
    kept = [data[:2]]
    for marker, start, end in _segments(data):
        shown = _SHOWING.get(marker)
        metadata = marker == _COMMENT or (marker in _APPLICATIONS and not (shown and data.startswith(shown, start + 4)))
        if not metadata:
            kept.append(data[start:end])
    return b"".join(kept)


def has_position(data: bytes) -> bool:
    """Says whether a JPEG file's EXIF or XMP holds where it was taken; False for what is no whole JPEG."""
    if _EXIF not in data and _XMP not in data:  # most photos from the web: nothing to walk through
        return False
    try:
        for marker, start, end in _segments(data):
            if marker == _START_OF_SCAN:
                return False
            if marker == 0xE1 and data.startswith(_EXIF, start + 4) and _exif_position(data[start + 10 : end]):
                return True
            if marker == 0xE1 and data.startswith(_XMP, start + 4) and b"GPSLatitude" in data[start:end]:
                return True
    except ValueError:
        pass
    return False


def _exif_position(tiff: bytes) -> bool:
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        pointer = _tags(tiff, first, order).get(_GPS_POINTER)
        return pointer is not None and _LATITUDE in _tags(tiff, pointer, order)
    except struct.error:
        return False


def _tags(tiff: bytes, at: int, order: str) -> dict[int, int]:
    """Reads a directory of EXIF: tag → value or offset, as a number. Raises struct.error."""
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    entries = (struct.unpack_from(f"{order}HHII", tiff, at + 2 + _ENTRY_BYTES * index) for index in range(count))
    return {tag: value for tag, _, _, value in entries}
