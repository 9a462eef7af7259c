"""Says what holds for every image file, whatever its bytes."""

from __future__ import annotations

import contextlib
import functools
import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images import heap
from pipeline.images.encode import render, thumbnail
from pipeline.images.facts import ImageFacts
from pipeline.images.look import look, make_facts
from pipeline.images.magic import is_html, sniff
from pipeline.images.metadata import has_position, without_metadata
from pipeline.images.policy import PixelPolicy, Refused, Reject, RejectCode
from pipeline.images.tags import read_tags

_MAX_PIXELS = 1 << 18
_POLICY = PixelPolicy(min_side=1, max_pixels=_MAX_PIXELS)
_OTHERS = (
    PixelPolicy(min_side=1, max_pixels=_MAX_PIXELS, max_side=8),
    PixelPolicy(min_side=1, max_pixels=_MAX_PIXELS, animated="refuse"),
    PixelPolicy(min_side=1, max_pixels=_MAX_PIXELS, lossless=True, subsampling="4:4:4"),
    PixelPolicy(min_side=1, max_pixels=_MAX_PIXELS, strip_metadata=True),
)
_M_PERTURB = -6  # malloc.h
_THUMBNAIL = 112
_COMPRESSION, _FAX = 259, (2, 3, 4)


@functools.cache
def _tensorflow() -> Any:
    import tensorflow as tf  # not above: it takes seconds

    return tf


def start() -> None:
    """Does what takes time and memory once: TensorFlow's start."""
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG")
    _tensorflow().io.decode_image(out.getvalue())


def _look(data: bytes, policy: PixelPolicy, *, fill: int) -> ImageFacts | Reject:
    """Inspects an image in memory whose old contents are `fill`: what shows them reads what nobody has written."""
    Image.core.clear_cache()
    libc = heap._libc()
    if libc:
        libc.mallopt(_M_PERTURB, fill ^ 0xFF)
    try:
        seen = look(data, policy)
    finally:
        if libc:
            libc.mallopt(_M_PERTURB, 0)
    return seen if isinstance(seen, Reject) else make_facts([seen])[0]


def _check_record(record: bytes, facts: ImageFacts) -> None:
    """Has the decoders of users and of the trainer read a record's image."""
    with Image.open(io.BytesIO(record), formats=("JPEG", "PNG")) as image:
        assert image.mode == ("L" if facts.channels == 1 else "RGB")
        assert image.size == (facts.width, facts.height)
        pixels = np.asarray(image)
    decode = _tensorflow().io
    if record.startswith(b"\xff\xd8"):
        decoded = decode.decode_jpeg(record, dct_method="INTEGER_ACCURATE").numpy()  # as Pillow does
    else:
        decoded = decode.decode_png(record).numpy()
    assert decoded.shape == (facts.height, facts.width, facts.channels)
    if b"\xff\xc2" in record:  # what progressive scans leave out is smoothed otherwise by each version of libjpeg
        return
    difference = np.abs(decoded.reshape(pixels.shape).astype(int) - pixels).max()
    assert difference <= 1, f"TensorFlow's pixels differ by up to {difference}"


def _may_show_memory(data: bytes) -> bool:
    """Says whether a file is a TIFF in fax codes, in which a known fault shows.

    Where these end early libtiff says nothing, and `heap.fresh_memory` misses a block of some hundred bytes that
    `realloc` made longer in place: such a file is refused, or, once in a hundred times, accepted with old memory.
    """
    with contextlib.suppress(Refused):
        tags = read_tags(data)
        return tags is not None and tags.number(_COMPRESSION, 1) in _FAX
    return False


def _check(data: bytes, policy: PixelPolicy) -> ImageFacts | Reject:
    """Inspects and renders an image; returns what it is."""
    facts, again = (_look(data, policy, fill=fill) for fill in (0x55, 0xAA))
    if _may_show_memory(data):
        return facts
    assert facts == again, f"inspected twice: {facts} and {again}"
    if isinstance(facts, Reject):
        assert facts.detail.strip()
        assert len(facts.detail.splitlines()) == 1, f"a reject's detail is one line: {facts.detail!r}"
        facts.detail.encode()  # into rejects.jsonl
        return facts
    record = render(data, policy)
    if policy.strip_metadata:
        assert not has_position(record)
    else:
        assert record == data or not facts.keeps_bytes  # a PNG of ours, encoded anew, is itself
    _check_record(record, facts)
    return facts


def _check_thumbnail(data: bytes) -> None:
    with contextlib.suppress(Refused), Image.open(io.BytesIO(thumbnail(data)), formats=("JPEG",)) as small:
        assert max(small.size) <= _THUMBNAIL


def image(data: bytes) -> None:
    """Inspects a file, under two policies if it is accepted, and reads what `render` makes of it.

    There is not enough memory (`MemoryError`): the budget of `guarded` refuses such a file, and that is foreseen.
    """
    with contextlib.suppress(MemoryError):
        facts = _check(data, _POLICY)
        if isinstance(facts, ImageFacts):
            _check(data, _OTHERS[zlib.crc32(data) % len(_OTHERS)])
        if not isinstance(facts, Reject) or facts.code is not RejectCode.TOO_MANY_PIXELS:  # seconds for a thumbnail
            _check_thumbnail(data)
    assert has_position(data) in (True, False)
    with contextlib.suppress(ValueError):
        without_metadata(data)


def magic(data: bytes) -> None:
    """Names a file's format by its first bytes."""
    name = sniff(data)
    assert name is None or name.isprintable()
    assert is_html(data) in (True, False)
