"""Makes image files for the tests of this room, by Pillow or byte by byte, and asks what becomes of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from pipeline.images.encode import render
from pipeline.images.facts import ImageFacts
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy, Reject

POLICY = PixelPolicy(min_side=1)


def save(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photo(height=90, width=120, mode="RGB"):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 127 + 90 * np.sin(x / 9) * np.cos(y / 7)], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def noise(height=90, width=120):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def accepted(data, policy=POLICY):
    facts = inspect(data, policy)
    assert isinstance(facts, ImageFacts), facts
    return facts


def refused(data, policy=POLICY):
    """Returns (code, detail)."""
    reject = inspect(data, policy)
    assert isinstance(reject, Reject), reject
    return reject.code, reject.detail


def record_pixels(data, policy=POLICY):
    return np.asarray(Image.open(io.BytesIO(render(data, policy))))


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tags_block(entries, values=b"", *, order="<", big=False, following=0):
    """Makes a TIFF file or EXIF block of one directory, `values` behind it.

    Args:
      entries: (tag, type, count, value); a value of None is the place of `values`.
    """
    head, row, next_at = ("Q", "HHQQ", "Q") if big else ("H", "HHLL", "L")
    start = 16 if big else 8
    size = (
        struct.calcsize(order + head) + len(entries) * struct.calcsize(order + row) + struct.calcsize(order + next_at)
    )
    mark = b"II" if order == "<" else b"MM"
    block = mark + struct.pack(order + ("HHHQ" if big else "HL"), *((43, 8, 0, start) if big else (42, start)))
    block += struct.pack(order + head, len(entries))
    rows = []
    for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
        place = start + size if value is None else value
        if kind == 3 and value is not None and order == ">":
            place <<= 48 if big else 16
        rows.append(struct.pack(order + row, tag, kind, count, place))
    return block + b"".join(rows) + struct.pack(order + next_at, following) + values


def tiff(rows, width, height, *, bits=8, photometric=1, samples=1, form=1, compression=1, order="<", more=()):
    """Makes a TIFF of one strip; `bits` and `form` hold for all samples, which with more than two need `more`."""
    entries = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, bits), (259, 3, 1, compression)),
        *((262, 3, 1, photometric), (273, 4, 1, None), (277, 3, 1, samples), (278, 3, 1, height)),
        *((279, 4, 1, len(rows)), *more),
    ]
    if form != 1:
        entries.append((339, 3, 1, form))
    return tags_block(entries, rows, order=order)
