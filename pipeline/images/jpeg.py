"""Reads the markers of a JPEG file, and decodes plain ones by libjpeg-turbo directly.

That gives Pillow's pixels in less time and straight into an array: Pillow feeds the same library in pieces, into four
bytes a pixel, which then have to be copied into three.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import simplejpeg

DECODER_VERSION = simplejpeg.__version__

_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # among coded data: neither stuffing nor a restart
# Tables, comments and what says how components are coded (JFIF, Adobe): nothing that turns the image or numbers others.
_HARMLESS = frozenset(b"\xc4\xdb\xdd\xe0\xee\xfe")


class Frame(NamedTuple):
    """Says what a plain JPEG declares.

    Attributes:
      width, height: as stored, pixels; may be 0 in a damaged file.
      channels: number of components.
      progressive: whether it may have many scans over the same pixels.
      bare: whether there is no metadata that could matter: no orientation, no further images.
    """

    width: int
    height: int
    channels: int
    progressive: bool
    bare: bool


def plain_frame(data: bytes) -> Frame | None:
    """Reads the frame of a whole JPEG of the kinds that every decoder reads: baseline, extended or progressive Huffman.

    None if it is of another kind or ends without its end marker. The bits a sample are not looked at.
    """
    at = 2
    frame, bare = None, True
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            return frame._replace(bare=bare) if frame and _plain_scans(data, at) else None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = (
                int.from_bytes(data[at + i : at + j], "big") for i, j in ((5, 7), (7, 9), (9, 10))
            )
            frame = Frame(width, height, channels, marker == 0xC2, bare) if marker <= 0xC2 else None
        elif marker not in _HARMLESS:
            bare = False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _plain_scans(data: bytes, at: int) -> bool:
    """Says whether from the first scan on there are only scans and their tables up to the end marker.

    Pillow skips other markers amid the scans, which damage puts there; TensorFlow then refuses the file.
    """
    scans, end, _ = b"".join(_MARKER.findall(data, at)).partition(b"\xd9")
    return bool(end) and not scans.strip(b"\xc4\xda\xdb\xdd")


def decode_plain(data: bytes, *, grey: bool) -> np.ndarray | None:
    """Decodes a whole JPEG file.

    Args:
      data: a JPEG with a `plain_frame` of one or three channels.
      grey: whether it has one channel.

    Returns:
      uint8 [height, width] or [height, width, 3]; None where the library has anything at all to remark, a single
      stray byte: then Pillow decides what is to become of the file.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True)
    except ValueError:
        return None
    return pixels[..., 0] if grey else pixels
