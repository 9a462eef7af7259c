"""Brings PBM, PGM and PPM files (P1 to P6) into the form that Pillow reads at once: raw samples of 8 bits.

Pillow's own code for plain text, for comments in it and for samples that do not end at 255 takes microseconds a sample
or, with many comments, time in their square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from pipeline.images.policy import MAX_PARTS, Refused, RejectCode, too_many_parts

_SPACE = b" \t\n\v\f\r"
_MAX_HEADER_BYTES = 1 << 16
_MAX_DIGITS = 10
_CHUNK = 1 << 20  # samples or characters at a time, so that intermediate copies stay small
_COMMENT = re.compile(rb"#[^\r\n]*")


def is_pnm(data: bytes) -> bool:
    return data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] != b"" and data[2:3] in _SPACE + b"#"


def _not_understood(what: str) -> Refused:
    return Refused(RejectCode.CORRUPT, f"PPM header not understood: {what}")


def _numbers(data: bytes, count: int) -> tuple[list[int], int]:
    """Reads the header's numbers; returns them and the place behind the one space that ends the last."""
    numbers, token, in_comment = [], b"", False
    for at in range(2, min(len(data), _MAX_HEADER_BYTES)):
        here = data[at : at + 1]
        if here == b"#" or (in_comment and here not in b"\r\n"):
            in_comment = True
            continue
        in_comment = False
        if here.isdigit() and len(token) < _MAX_DIGITS:
            token += here
        elif here not in _SPACE:
            raise _not_understood(f"{token + here!r} is no number")
        elif token:
            numbers.append(int(token))
            token = b""
            if len(numbers) == count:
                return numbers, at + 1
    raise _not_understood("it ends too early" if len(data) < _MAX_HEADER_BYTES else f"{_MAX_HEADER_BYTES} bytes long")


def _raw_samples(data: bytes, at: int, count: int, white: int) -> Iterator[np.ndarray]:
    wide = white > 255
    samples = np.frombuffer(data, ">u2" if wide else "u1", min(count, (len(data) - at) // (1 + wide)), at)
    for start in range(0, len(samples), _CHUNK):
        yield np.minimum(samples[start : start + _CHUNK], white)


def _plain_samples(data: bytes, at: int, *, bitmap: bool) -> Iterator[np.ndarray]:
    """Yields the numbers of plain text; the digits, where they are a bitmap's, which need no space between them."""
    if data.count(b"#", at) > MAX_PARTS:
        raise too_many_parts("comments")
    text = _COMMENT.sub(b"", data[at:])
    if text.translate(None, b"0123456789" + _SPACE):
        raise Refused(RejectCode.CORRUPT, "something that is no number amid the samples")
    start = 0
    while start < len(text):
        part = text[start : start + _CHUNK]
        if start + _CHUNK < len(text) and not bitmap:
            part = part[: 1 + max(part.rfind(space) for space in _SPACE)]
            if not part:
                raise Refused(RejectCode.CORRUPT, f"a sample of more than {_MAX_DIGITS} digits")
        start += len(part)
        if bitmap:
            yield np.frombuffer(part.translate(None, _SPACE), np.uint8) - ord("0")
        elif not part.isspace():  # of which `fromstring` would make a 0
            yield np.fromstring(part, np.int64, sep=" ")


def with_8_bits(data: bytes) -> bytes:
    """Returns a file that Pillow reads at once: `data` itself, or one with the same picture in raw samples up to 255.

    What is cut off stays cut off, for the decoder to find.

    Raises:
      Refused: the header or a sample makes no sense.
    """
    form = data[1] - ord("0")
    bitmap, plain, channels = form in (1, 4), form <= 3, 3 if form in (3, 6) else 1
    numbers, at = _numbers(data, 2 if bitmap else 3)
    (width, height), white = numbers[:2], 1 if bitmap else numbers[2]
    if not 0 < white < 65536:
        raise _not_understood(f"{white} as the largest sample")
    if not plain and white == (1 if bitmap else 255):
        return data
    count = width * height * channels
    table = ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)
    if bitmap:
        table = 255 - table
    parts, have = [b"P%d %d %d 255\n" % (6 if channels == 3 else 5, width, height)], 0
    for found in _plain_samples(data, at, bitmap=bitmap) if plain else _raw_samples(data, at, count, white):
        samples = found[: count - have]
        if samples.size and samples.max() > white:
            raise Refused(RejectCode.CORRUPT, f"a sample of {samples.max()}, at most {white} allowed")
        parts.append(table[samples].tobytes())
        have += len(samples)
        if have == count:
            break
    return b"".join(parts)
