"""Tests that an image decoded once gives the bits that admission, the record and the reference give in turn."""

import contextlib
import functools
import io
import os
import signal

import numpy as np
import pytest
from PIL import Image

from pipeline.images.encode import render
from pipeline.images.guarded import Decoder, DecoderPool, ImageBudget, Seen
from pipeline.images.look import inspect
from pipeline.images.model_pixels import pixels
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from pipeline.images.seeing import see
from tests.datasets import smooth_image
from tests.pipeline.images.test_guarded import endless

POLICY = PixelPolicy(min_side=1)
SPECS = [
    {"height": 24, "width": 32, "resize": resize, "eval_centre": centre}
    for resize, centre in (("stretch", 0.0), ("crop", 0.9), ("pad", 0.0))
]
TINY = [{**spec, "height": 2, "width": 3} for spec in SPECS]


def in_turn(data, spec):
    """Returns what the builder's inspection, its encoding and the exported preprocessing make of an image."""
    facts = inspect(data, POLICY)
    if isinstance(facts, Reject):
        return facts
    record = data if facts.keeps_bytes else render(data, POLICY)
    return pixels(record, spec), record


def check_same(found, expected):
    if isinstance(expected, Reject):
        assert found == expected
        return
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[0].dtype == np.float32
    assert found[1] == expected[1]


def save(image, form="JPEG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def smooth(width, height):
    return Image.fromarray(smooth_image(np.random.default_rng(width * height), height=height, width=width))


@functools.cache
def made():
    """Makes images of all that tells one way through `see` from another."""
    photo = smooth(301, 217)
    kinds = {
        "plain": save(photo),
        "4:4:4": save(photo, subsampling=0),
        "progressive": save(photo, progressive=True),
        "grey": save(photo.convert("L")),
        "CMYK": save(photo.convert("CMYK")),
        "two pictures": save(photo, "MPO", save_all=True, append_images=[photo.resize((60, 40))]),
        "profile": save(photo, icc_profile=bytes(300)),
        "stray bytes": save(photo)[:-2] + b"\0\0\0\xff\xd9",
        "no end": save(photo)[:-2],
        "cut": save(photo)[:-600],
        "PNG": save(photo, "PNG"),
        "palette": save(photo.convert("P"), "GIF"),
        "transparent": save(photo.convert("RGBA"), "PNG"),
        "nothing": b"",
    }
    for orientation in (0, 1, 6, 9):  # 0 and 9 mean nothing
        exif = Image.Exif()
        exif[0x0112] = orientation
        kinds[f"orientation {orientation}"] = save(photo, exif=exif)
    return kinds


@pytest.mark.parametrize("kind", made())
def test_an_image_decoded_once_gives_the_same_bits(kind):
    data = made()[kind]
    for spec in (*SPECS, *TINY):
        check_same(see(data, POLICY, spec=spec), in_turn(data, spec))


@pytest.mark.parametrize("side", [*range(1, 20), 31, 64, 65])
def test_small_and_narrow_images_are_reduced_alike(side):
    for width, height in ((side, side), (side, 40), (40, side)):
        data = save(smooth(width, height))
        for spec in TINY:
            check_same(see(data, POLICY, spec=spec), in_turn(data, spec))


def test_real_files_give_the_same_bits_and_the_same_refusals(shared_data):
    files = sorted((shared_data / "flowers").rglob("*.jpg"))[::40]
    files += sorted(path for path in (shared_data / "odd_images").rglob("*") if path.is_file())[::12]
    found = []
    for file in files:
        data = file.read_bytes()
        found.append(see(data, POLICY, spec=SPECS[1]))
        check_same(found[-1], in_turn(data, SPECS[1]))
    assert 5 < sum(isinstance(one, Reject) for one in found) < len(found) / 2


def test_a_child_sees_the_same_and_names_what_it_refuses():
    images, spec = [*made().values(), endless(), made()["plain"]], SPECS[0]
    with contextlib.closing(Decoder(POLICY, ImageBudget(seconds=0.5))) as decoder:
        found = decoder.see(images, spec)
        (again,) = decoder.see([made()["PNG"]], TINY[0])  # of another size
    assert found[-2] == Reject(code=RejectCode.TOO_SLOW, detail="decoding takes more than 0.5 s")
    for one, data in zip([*found[:-2], found[-1], again], [*images[:-2], images[-1], made()["PNG"]], strict=True):
        expected = in_turn(data, TINY[0] if one is again else spec)
        check_same((one.pixels, one.record) if isinstance(one, Seen) else one, expected)


def test_decoders_go_on_when_what_forks_them_is_killed():
    data, spec = made()["plain"], SPECS[0]
    expected = in_turn(data, spec)
    pool = DecoderPool(POLICY, ImageBudget())
    with contextlib.closing(pool), pool.lent() as first, pool.lent() as second:
        for decoder in (first, second):
            decoder.see([data], spec)
        os.kill(pool._zygote._process.pid, signal.SIGKILL)
        for decoder in (first, second, first):
            (found,) = decoder.see([data], spec)
            np.testing.assert_array_equal(found.pixels, expected[0])
