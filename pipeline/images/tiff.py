"""Looks at a TIFF file before Pillow does: what Pillow would not read, or not as it is meant."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.images.jpeg import scan_damage
from pipeline.images.policy import Refused, RejectCode
from pipeline.images.tags import Directory, read_tags

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_BYTES, _TILES, _TILE_BYTES, _SUB_IFDS = 273, 277, 279, 324, 325, 330
_SAMPLE_FORMAT, _JPEG_TABLES, _PLANAR, _DNG_VERSION = 339, 347, 284, 50706
_MIN_IS_WHITE, _MIN_IS_BLACK = 0, 1
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # samples that are not extra ones, by photometric interpretation, where not 1
_JPEG = 7
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_PHOTOMETRICS = {32803: "a camera sensor's colour filters", 34892: "a camera sensor's linear samples"}
# Pillow's libtiff reads these or not, as it was built.
_COMPRESSIONS = {34676: "SGI LogLuv", 34677: "SGI LogLuv", 50001: "WebP"}
_MAX_BITS = 64
_MAX_PIECES = 1 << 18
_PREVIEW = "a camera's raw file, whose first picture is only a preview"


def _unsupported(what: str) -> Refused:
    return Refused(RejectCode.UNSUPPORTED, f"TIFF: {what}")


def _refuse_other_meanings(data: bytes, tags: Directory) -> None:
    """Refuses files that Pillow would open but whose picture is another, or that it opens on some machines only."""
    if data[8:10] == b"CR" or _DNG_VERSION in tags.entries:
        raise _unsupported(_PREVIEW)
    if tags.number(_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags.entries:
        raise _unsupported(_PREVIEW)
    form = tags.numbers(_SAMPLE_FORMAT, (1,))[: _COLOURS.get(tags.number(_PHOTOMETRIC, 0), 1)]
    if odd := [_FORMATS[number] for number in form if number in _FORMATS]:
        raise _unsupported(f"{odd[0]} samples of {tags.number(_BITS, 1)} bits: which value is white is not defined")
    if (compression := tags.number(_COMPRESSION, 1)) in _COMPRESSIONS:
        raise _unsupported(f"compression {compression} ({_COMPRESSIONS[compression]})")


def _without_min_is_white(data: bytes, tags: Directory) -> bytes:
    """Returns the file as if its smallest sample were black: of 9 to 16 bits Pillow takes it so, or not at all."""
    entry = tags.entries[_PHOTOMETRIC]
    value = struct.pack(tags.order + ("H" if entry.type == 3 else "L"), _MIN_IS_BLACK)
    return data[: entry.at] + value + data[entry.at + len(value) :]


def for_pillow(data: bytes) -> tuple[bytes, bool]:
    """Returns what Pillow is to read, and whether its greys have to be inverted then.

    Raises:
      Refused: the tags ask too much (`tags.read_tags`), or what they say is nothing that we read.
    """
    tags = read_tags(data)
    if tags is None:
        return data, False
    _refuse_other_meanings(data, tags)
    entry = tags.entries.get(_PHOTOMETRIC)
    wide = 8 < tags.number(_BITS, 1) <= 16 and tags.number(_SAMPLES, 1) == 1
    if wide and entry and entry.type in (3, 4) and tags.number(_PHOTOMETRIC, _MIN_IS_BLACK) == _MIN_IS_WHITE:
        return _without_min_is_white(data, tags), True
    return data, False


def why_not_opened(data: bytes) -> str:
    """Says what it is that Pillow does not read, where the file itself makes sense; otherwise returns ""."""
    tags = read_tags(data)
    if tags is None:
        return ""
    bits, samples = tags.numbers(_BITS, (1,)), tags.number(_SAMPLES, 1)
    sensible = (
        tags.number(_WIDTH, 0) > 0
        and tags.number(_HEIGHT, 0) > 0
        and (_STRIPS in tags.entries or _TILES in tags.entries)
        and all(0 < number <= _MAX_BITS for number in bits)
        and samples > 0
    )
    if not sensible:
        return ""
    photometric = tags.number(_PHOTOMETRIC, _MIN_IS_WHITE)
    meaning = _PHOTOMETRICS.get(photometric, "")
    order = "" if tags.order == "<" else ", big-endian"
    each = "/".join(str(number) for number in bits[:8])
    return (
        f"{samples} samples a pixel of {each} bits, photometric interpretation {photometric}"
        f"{f' ({meaning})' if meaning else ''}, compression {tags.number(_COMPRESSION, 1)}{order}: not supported"
    )


def _pieces(data: bytes, tags: Directory) -> Iterator[bytes]:
    """Yields the strips or tiles."""
    tiled = _TILES in tags.entries
    starts, lengths = (
        tags.numbers(tag, most=_MAX_PIECES) for tag in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES))
    )
    for start, length in zip(starts, lengths, strict=False):
        yield data[start : start + length]


def check_jpeg_pieces(data: bytes) -> None:
    """Refuses a TIFF with damaged JPEGs in it: libtiff, like Pillow, swallows what the JPEG decoder says."""
    tags = read_tags(data)
    if tags is None or tags.number(_COMPRESSION, 1) != _JPEG:
        return
    entry = tags.entries.get(_JPEG_TABLES)
    tables = data[entry.at : entry.at + entry.values] if entry else b""
    for number, piece in enumerate(_pieces(data, tags)):
        if refused := scan_damage(tables[:-2] + piece[2:] if tables else piece):
            raise Refused(refused.code, f"strip or tile {number}: {refused.detail}")
