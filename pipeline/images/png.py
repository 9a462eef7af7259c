"""Reads the chunks of a PNG file."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.images.policy import MAX_PARTS, Refused, RejectCode, too_many_parts
from pipeline.images.tags import check_exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_AS_TEXT = b"Raw profile type exif\0"
_MAX_TEXT_BYTES = 1 << 20  # of a text that was compressed; Pillow's own limit
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column and row, and steps between them, of Adam7's seven passes.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED = 1 << 20  # bytes at a time


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields each chunk's kind, and where its content begins and ends."""
    at = len(SIGNATURE)
    for number in itertools.count():
        if at + 8 > len(data):
            return
        if number >= MAX_PARTS:
            raise too_many_parts("PNG chunks")
        length, kind = struct.unpack_from(">L4s", data, at)
        yield kind, at + 8, min(at + 8 + length, len(data))
        at += length + 12


def _profile(kind: bytes, content: bytes) -> bytes:
    """Returns the EXIF block that old programs write as text, in hexadecimal."""
    text = content[len(_EXIF_AS_TEXT) :]
    if kind != b"tEXt":
        begin = 1 if kind == b"zTXt" else text.find(b"\0", text.find(b"\0", 2) + 1) + 1  # behind two names
        text = text[begin:]
        with contextlib.suppress(zlib.error):  # the text of an iTXt need not be compressed
            text = zlib.decompressobj().decompress(text, _MAX_TEXT_BYTES)
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def check_chunks(data: bytes) -> None:
    """Refuses a PNG with too many chunks, or with an EXIF block that asks too much; see `tags.read_tags`."""
    for kind, begin, end in _chunks(data):
        if kind == b"eXIf":
            check_exif(data[begin:end])
        elif kind in _TEXT and data.startswith(_EXIF_AS_TEXT, begin):
            check_exif(_profile(kind, data[begin:end]))


def _bytes_wanted(header: bytes) -> int:
    """Computes how many bytes the rows take, each with its filter's number, by the header's content."""
    width, height, bits, colours, _, _, interlaced = struct.unpack(">LLBBBBB", header)
    bits *= _CHANNELS[colours]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    shapes = ((-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in shapes if columns > 0)


def check_rows(data: bytes, image: Image.Image) -> None:
    """Refuses a decoded PNG whose compressed stream is whole but holds too few rows: Pillow leaves the others zero.

    Only where the end of the picture is zero it has to be looked at again.
    """
    last = image.crop((0, max(0, image.height - 2), image.width, image.height))
    if all(row.any() for row in np.asarray(last)):
        return
    chunks = list(_chunks(data))
    header = next(data[begin:end] for kind, begin, end in chunks if kind == b"IHDR")
    inflate, have, wanted = zlib.decompressobj(), 0, _bytes_wanted(header[:13])
    for kind, begin, end in chunks:
        content = data[begin:end] if kind == b"IDAT" else b""
        while content and not inflate.eof and have < wanted:
            have += len(inflate.decompress(content, _INFLATED))
            content = inflate.unconsumed_tail
    if have + len(inflate.flush()) < wanted:
        raise Refused(RejectCode.TRUNCATED, f"its rows end after {have} of {wanted} bytes")
