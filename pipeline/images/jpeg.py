"""Reads the markers of a JPEG file, and decodes it by libjpeg-turbo directly.

That gives Pillow's pixels in less time and straight into an array: Pillow feeds the same library in pieces, into four
bytes a pixel, which then have to be copied into three. And it tells what the library has to remark, which Pillow
swallows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

from pipeline.images.policy import MAX_PARTS, Refused, RejectCode, too_many_parts
from pipeline.images.tags import check_exif

DECODER_VERSION = simplejpeg.__version__
START = b"\xff\xd8\xff"
MAX_SIDE = 65_500  # libjpeg's, in both directions; the header has room for 65,535

_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # among coded data: neither stuffing nor a restart
# Tables, comments and what says how components are coded (JFIF, Adobe): nothing that turns the image or numbers others.
_HARMLESS = frozenset(b"\xc4\xdb\xdd\xe0\xee\xfe")
_SCAN, _END, _END_MARKER = 0xDA, b"\xd9", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_APPLICATIONS = frozenset((*range(0xE0, 0xF0), 0xFE))  # and comments
_EXIF, _MPF = b"Exif\0\0", b"MPF\0"
# What libjpeg reads depends on how it was built, and TensorFlow's reads none of these.
_KINDS = (
    ({0xC3, 0xC7, 0xCB, 0xCF}, "lossless JPEG"),
    ({0xC5, 0xC6, 0xCD, 0xCE}, "hierarchical JPEG"),
    ({0xC9, 0xCA}, "arithmetic-coded JPEG"),
    ({0xF7}, "JPEG-LS"),
)
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}  # simplejpeg's names, by components
_ENDS_EARLY = ("premature end", "Premature end")
_DAMAGED = ("bad Huffman code", "found marker")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# Cameras leave a byte or two behind a restart interval or the picture; damage mostly leaves hundreds.
_MAX_LEFT_OVER = 16
_SECTOR = 512  # bytes; larger ones are multiples
_ZEROS = bytes(_SECTOR)
_BESIDE = 4  # zeros beside a lost sector that may be codes
_MAX_FILLED = 64


class Frame(NamedTuple):
    """Says what a plain JPEG declares.

    Attributes:
      width, height: as stored, pixels; may be 0 in a damaged file.
      channels: number of components.
      scans: how many there are, each over all pixels perhaps.
      bare: whether there is no metadata that could matter: no orientation, no further images.
    """

    width: int
    height: int
    channels: int
    scans: int
    bare: bool


def plain_frame(data: bytes) -> Frame | None:
    """Reads the frame of a whole JPEG of the kinds that every decoder reads: baseline, extended or progressive Huffman.

    None if it is of another kind or ends without its end marker. The bits a sample are not looked at.
    """
    at = 2
    frame, bare = None, True
    for _ in range(MAX_PARTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _SCAN:
            scans = _plain_scans(data, at) if frame else 0
            return frame._replace(scans=scans, bare=bare) if frame and scans else None
        if marker in _FRAMES:
            height, width, channels = (
                int.from_bytes(data[at + i : at + j], "big") for i, j in ((5, 7), (7, 9), (9, 10))
            )
            frame = Frame(width, height, channels, 0, bare) if marker <= 0xC2 else None
        elif marker not in _HARMLESS:
            bare = False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _plain_scans(data: bytes, at: int) -> int:
    """Counts the scans if from the first one on there are only scans and their tables up to the end marker, else 0.

    Pillow skips other markers amid the scans, which damage puts there; TensorFlow then refuses the file.
    """
    scans = 0
    for match in _MARKER.finditer(data, at):
        if match[1] == _END:
            return scans
        if match[1] not in (b"\xc4", b"\xda", b"\xdb", b"\xdd"):
            return 0
        scans += match[1] == b"\xda"
    return 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, its place, its segment's end) up to the first scan, over any rubbish between, as libjpeg does."""
    at, rubbish = 2, 0
    for _ in range(MAX_PARTS):
        found = data.find(b"\xff", at)
        if found < 0 or found + 4 > len(data):
            return
        rubbish, at = rubbish + found - at, found
        if rubbish > MAX_PARTS:
            raise too_many_parts("bytes between JPEG segments")
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == _SCAN or end < at + 4:
            return
        at = end
    raise too_many_parts("JPEG segments")


def check_header(data: bytes) -> None:
    """Refuses a JPEG of a kind that few decoders read, or whose EXIF block asks too much (`tags.read_tags`)."""
    exif = []
    for marker, at, end in _segments(data):
        if marker in _FRAMES:
            _check_frame(marker, data[at + 4 : at + 10])
        elif marker == 0xE1 and data.startswith(_EXIF, at + 4):
            exif.append(data[at + 4 + len(_EXIF) : end])
        elif marker == 0xE2 and data.startswith(_MPF, at + 4):
            check_exif(data[at + 4 + len(_MPF) : end])
    check_exif(b"".join(exif))


def _check_frame(marker: int, header: bytes) -> None:
    if len(header) < 6:
        return
    bits, height, components = header[0], int.from_bytes(header[1:3], "big"), header[5]
    what = next((name for markers, name in _KINDS if marker in markers), "")
    if not what and bits != 8:
        what = f"JPEG with samples of {bits} bits"
    if not what and components not in _COLOURS:
        what = f"JPEG with {components} components"
    if not what and height == 0:
        what = "JPEG that gives its height after the picture"
    if what:
        raise Refused(RejectCode.UNSUPPORTED, f"{what}: not supported")


def with_end(data: bytes) -> bytes:
    """Returns a JPEG with an end marker behind it where it has none behind its first scan."""
    scan = _first_scan(data)
    return data if scan == len(data) or data.find(_END_MARKER, scan) >= 0 else data + _END_MARKER


def decode_plain(data: bytes, *, grey: bool, shrunk_to: tuple[int, int] | None = None) -> np.ndarray | None:
    """Decodes a whole JPEG file.

    Args:
      data: a JPEG with a `plain_frame` of one or three channels.
      grey: whether it has one channel.
      shrunk_to: see `decode_whole`.

    Returns:
      uint8 [height, width] or [height, width, 3]; None where the library has anything at all to remark, a single
      stray byte: then `decode_whole` decides what is to become of the file.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True, **_least(shrunk_to))
    except ValueError:
        return None
    if lost_sector(data) is not None:
        return None
    return pixels[..., 0] if grey else pixels


def decode_whole(data: bytes, *, channels: int, shrunk_to: tuple[int, int] | None = None) -> np.ndarray | None:
    """Decodes a JPEG file and refuses a damaged one.

    Args:
      data: a JPEG of 8 bits a sample, with its end marker.
      channels: 1, 3 or 4 (CMYK, as stored: inverted).
      shrunk_to: (width, height) of a half, a quarter or an eighth, rounded up, to decode to.

    Returns:
      uint8 [height, width, channels]; None where the library remarks something harmless, or does not know the sampling
      of the colours: then Pillow decides, but only `ends_early` tells whether all of the picture is there.

    Raises:
      Refused: the library misses coded data, finds wrong codes or has many bytes left over.
    """
    if (sector := lost_sector(data)) is not None:
        raise Refused(RejectCode.CORRUPT, f"JPEG: {sector} holds zeros instead of coded data")
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, _COLOURS[channels], strict=True, **_least(shrunk_to))
        return pixels
    except ValueError as error:
        remark = str(error)
    if refused := _damage(data, _COLOURS[channels], remark):
        raise refused
    return None


def _least(shrunk_to: tuple[int, int] | None) -> dict[str, int]:
    return {} if shrunk_to is None else {"min_width": shrunk_to[0], "min_height": shrunk_to[1]}


def lost_sector(data: bytes) -> str | None:
    """Finds sectors of a disk that read as zeros among the coded data: often they are codes like others, of grey.

    Long runs of zeros are rare in coded data, and begin and end where sectors do by a chance of one in ten thousand.

    Returns:
      Which bytes, or None.
    """
    middles = data[_SECTOR // 2 :: _SECTOR]  # looked at first: one byte of each
    number = middles.find(0)
    while number >= 0:
        start = number * _SECTOR
        if data.startswith(_ZEROS, start):
            end = start + len(_ZEROS)
            while data.startswith(_ZEROS, end):
                end += _SECTOR
            around = data[start - _BESIDE - 1 : start], data[end : end + _BESIDE + 1]
            if all(side.strip(b"\0") for side in around) and start > _first_scan(data):
                return f"byte {start} to {end}"
            number = end // _SECTOR - 1
        number = middles.find(0, number + 1)
    return None


def _first_scan(data: bytes) -> int:
    return next((at for marker, at, _ in _segments(data) if marker == _SCAN), len(data))


def scan_damage(data: bytes) -> Refused | None:
    """Says how a JPEG is damaged, as `decode_whole` would, or None; for JPEGs inside of other files."""
    components = next((data[at + 9] for kind, at, _ in _segments(data) if kind in _FRAMES and at + 9 < len(data)), 0)
    if components not in _COLOURS or not (remark := _remark(data, _COLOURS[components])):
        return None
    return _damage(data, _COLOURS[components], remark)


def _remark(data: bytes, colours: str) -> str:
    """Returns the library's first remark, or ""."""
    try:
        simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        return str(error)
    return ""


def _damage(data: bytes, colours: str, remark: str) -> Refused | None:
    """Says whether the file lacks or has lost anything of its picture, given the library's first remark.

    The first one hides the others, so it is asked again without what is in the header.
    """
    if refused := _verdict(data, remark, in_scans=False):
        return refused
    data = _without_applications(data)
    return _verdict(data, _remark(data, colours), in_scans=True)


def _verdict(data: bytes, remark: str, *, in_scans: bool) -> Refused | None:
    if any(words in remark for words in _ENDS_EARLY):
        return Refused(RejectCode.TRUNCATED, f"JPEG: {remark}")
    if any(words in remark for words in _DAMAGED):
        return Refused(RejectCode.CORRUPT, f"JPEG: {remark}")
    left_over = _LEFT_OVER.search(remark) if in_scans else None
    if left_over is None or (count := int(left_over[1])) <= _MAX_LEFT_OVER:
        return None
    if left_over[2] == _END.hex():
        before = data[: data.find(_END_MARKER, data.find(b"\xff\xda"))]
        filled = len(before) - len(before.rstrip(before[-1:]))
        if filled > count + _MAX_FILLED:  # more than is left over: a part of them was decoded
            return Refused(RejectCode.TRUNCATED, f"JPEG: {filled} equal bytes instead of the rest of the coded data")
        if filled >= count:
            return None
    return Refused(RejectCode.CORRUPT, f"JPEG: {count} bytes of coded data are left over")


def _without_applications(data: bytes) -> bytes:
    """Returns the file without application segments, comments and rubbish before its first scan."""
    parts = [data[:2]]
    for marker, at, end in _segments(data):
        if marker == _SCAN:
            parts.append(data[at:])
        elif marker not in _APPLICATIONS:
            parts.append(data[at:end])
    return b"".join(parts)


def ends_early(data: bytes, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Says whether other bytes before the end marker make another picture: then they stand in for missing ones."""
    end = data.find(_END_MARKER, data.find(b"\xff\xda"))
    try:
        first, second = (decode(data[:end] + fill * 64 + data[end:]) for fill in (b"\x55", b"\x33"))
    except (OSError, ValueError):
        return False
    return not np.array_equal(first, second)
