import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.decode import decode_and_resize
from pipeline.images.model_pixels import pixels
from pipeline.view import View
from tests.datasets import smooth_image
from trainer.serving.upright import decode_upright, orientation, turned


def photo(height, width, *, quality=90, **more):
    image = Image.fromarray(smooth_image(np.random.default_rng(3), height=height, width=width))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **more)
    return file.getvalue()


def exif_of(value, *, big=False, more=()):
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    for tag, text in more:
        exif[tag] = text
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_is_read_as_pillow_reads_it(value, big):
    data = photo(20, 30, exif=exif_of(value, big=big, more=[(0x010F, "a maker"), (0x0132, "2026:01:01 00:00:00")]))
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == value
    assert int(orientation(tf.constant(data))) == value


@pytest.mark.parametrize("value", [0, 9, 300])
def test_what_is_no_orientation_counts_as_none(value):
    assert int(orientation(tf.constant(photo(20, 30, exif=exif_of(value))))) == 1


def test_without_exif_and_with_other_segments_before_it():
    assert int(orientation(tf.constant(photo(20, 30)))) == 1
    plain = photo(20, 30, exif=exif_of(6))
    comment = b"\xff\xfe" + (2 + 5000).to_bytes(2, "big") + b"c" * 5000
    assert int(orientation(tf.constant(plain[:2] + comment + plain[2:]))) == 6


def test_broken_exif_never_fails():
    plain, generator = photo(20, 30, exif=exif_of(6, more=[(0x010F, "maker")])), random.Random(0)
    read = tf.function(orientation)
    assert int(read(tf.constant(plain[:12]))) == 1
    for _ in range(300):
        data = bytearray(plain)
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(2, 90)] = generator.randrange(256)
        assert 1 <= int(read(tf.constant(bytes(data[: generator.randint(3, len(data))])))) <= 8


@pytest.mark.parametrize("value", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(value):
    array = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.getexif()[0x0112] = value
    np.testing.assert_array_equal(turned(tf.constant(array), tf.constant(value)), ImageOps.exif_transpose(image))


@pytest.mark.parametrize("value", [1, 3, 6, 8])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(500, 333), (100, 140)])
def test_the_graph_sees_what_pillow_and_numpy_see(value, resize, size):
    data = photo(*size, exif=exif_of(value))
    spec = {"height": 64, "width": 48, "resize": resize, "eval_centre": 0.0}
    found = decode_upright(tf.constant(data), height=64, width=48, view=View(resize=resize))
    np.testing.assert_allclose(found, pixels(data, spec), atol=2e-3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_upright_images_are_seen_as_in_the_evaluation(form):
    file = io.BytesIO()
    Image.fromarray(smooth_image(np.random.default_rng(4), height=300, width=200)).save(file, form)
    data = tf.constant(file.getvalue())
    view = View(resize="crop")
    np.testing.assert_array_equal(
        decode_upright(data, height=64, width=64, view=view), decode_and_resize(data, height=64, width=64, view=view)
    )
