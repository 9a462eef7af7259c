import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.decode import (
    decode_and_resize,
    decode_jpeg,
    decode_jpeg_or_png,
    ratio_index,
    resize_view,
)
from pipeline.ratios import usable_ratios
from pipeline.view import View
from tests.datasets import jpeg, smooth_image


def _encoded(pixels, form):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    return smooth_image(np.random.default_rng(1), height=93, width=131)


def test_equals_plain_tensorflow_below_twice_the_size(photo):
    encoded = jpeg(photo)
    expected = tf.image.resize(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), [60, 70])
    np.testing.assert_allclose(decode_and_resize(tf.constant(encoded), height=60, width=70), expected, atol=1e-3)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_pixels_of_a_jpeg_are_those_of_pillow(photo, ratio, subsampling):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=80, subsampling=subsampling)
    with Image.open(file) as image:
        image.draft("RGB", (image.width // ratio, image.height // ratio))
        expected = np.asarray(image)
    found = decode_jpeg(tf.constant(file.getvalue()), index=tf.constant((1, 2, 4, 8).index(ratio)), count=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("largest", [None, (93, 131)])
def test_the_evaluation_path_sees_the_pixels_that_pillow_sees(photo, largest):
    encoded = jpeg(photo)
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.asarray(image)
    found = decode_and_resize(tf.constant(encoded), height=93, width=131, largest=largest)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("centre", [0.0, 0.875, 1.0])
@pytest.mark.parametrize("size", [(60, 70), (40, 50), (20, 20), (8, 200)])
def test_knowing_the_largest_size_changes_no_bit(photo, size, centre):
    encoded = tf.constant(jpeg(photo))
    height, width = size
    np.testing.assert_array_equal(
        decode_and_resize(encoded, height=height, width=width, view=View(eval_centre=centre)),
        decode_and_resize(encoded, height=height, width=width, view=View(eval_centre=centre), largest=(93, 131)),
    )


@pytest.mark.parametrize(
    ("size", "centre", "rows", "columns"),
    [
        # Of 93 × 131: the largest part of the output's aspect, times `centre`, its edges rounded.
        ((60, 60), 1.0, (0, 93), (19, 112)),
        ((60, 60), 0.875, (6, 87), (25, 106)),
        ((60, 90), 1.0, (3, 90), (0, 131)),
        ((90, 60), 0.5, (23, 69), (50, 81)),
        ((8, 200), 1.0, (44, 49), (0, 131)),
        ((300, 300), 0.01, (46, 47), (65, 66)),
    ],
)
def test_the_centre_is_what_is_left_without_the_borders(photo, size, centre, rows, columns):
    height, width = size
    expected = tf.image.resize(photo[slice(*rows), slice(*columns)], size)
    found = resize_view(tf.constant(photo), height=height, width=width, view=View(eval_centre=centre))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    encoded = _encoded(photo, "PNG")
    decoded = decode_and_resize(tf.constant(encoded), height=height, width=width, view=View(eval_centre=centre))
    np.testing.assert_allclose(decoded, expected, atol=1e-3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_seven_eighths_are_the_usual_resize_and_crop(form):
    """Resize the shorter side to 64 with antialiasing, then crop 56 in the centre: torchvision's way, with Pillow."""
    photo = smooth_image(np.random.default_rng(3), height=300, width=420)
    resized = Image.fromarray(photo).resize((round(420 * 64 / 300), 64), Image.Resampling.BILINEAR)
    left = round((resized.width - 56) / 2)
    expected = np.asarray(resized.crop((left, 4, left + 56, 60)), np.float32)
    encoded = tf.constant(_encoded(photo, form))
    found = decode_and_resize(encoded, height=56, width=56, view=View(eval_centre=0.875))
    whole = decode_and_resize(encoded, height=56, width=56)
    assert np.abs(found - expected).mean() < 0.15 * np.abs(whole - expected).mean()


def test_eager_graph_and_saved_model_give_the_same_bits(photo, tmp_path):
    class Export(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, encoded):
            signature = tf.TensorSpec([32, 32, 3])
            return tf.map_fn(
                lambda e: decode_and_resize(e, height=32, width=32), encoded, fn_output_signature=signature
            )

    tf.saved_model.save(Export(), str(tmp_path))
    encoded = [jpeg(photo), _encoded(photo, "PNG")]
    loaded = tf.saved_model.load(str(tmp_path))(tf.constant(encoded))
    for one, result in zip(encoded, loaded, strict=True):
        np.testing.assert_array_equal(result, decode_and_resize(tf.constant(one), height=32, width=32))


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_other_formats_and_modes(photo, form, mode):
    if (form, mode) in (("GIF", "RGB"), ("GIF", "RGBA"), ("BMP", "RGBA")):
        pytest.skip("not a mode of this format")
    image = Image.fromarray(photo).convert(mode)
    file = io.BytesIO()
    image.save(file, form)
    result = decode_and_resize(tf.constant(file.getvalue()), height=80, width=100)
    expected = tf.image.resize(np.asarray(image.convert("RGB")), [80, 100])
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_large_image_does_not_alias(form):
    """Fine noise becomes its mean; every eighth pixel, as plain bilinear takes it, would still be noise."""
    noise = np.random.default_rng(0).integers(0, 2, (512, 640, 1), dtype=np.uint8) * 255
    encoded = _encoded(np.repeat(noise, 3, axis=2), form)
    result = decode_and_resize(tf.constant(encoded), height=64, width=64).numpy()
    plain = tf.image.resize(tf.io.decode_image(encoded, channels=3), [64, 64]).numpy()
    best = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
    assert plain.std() > 60
    assert result.std() < 1.7 * best.std() < 30


def test_training_and_evaluation_are_equally_sharp(shared_data):
    """On real photos what we do is much nearer to an antialiased resize than plain bilinear is."""
    file = sorted((shared_data / "flowers").rglob("*.jpg"))[0]
    encoded = file.read_bytes()
    full = tf.io.decode_jpeg(encoded, channels=3)
    best = tf.image.resize(full, [48, 48], antialias=True)
    ours = np.abs(decode_and_resize(tf.constant(encoded), height=48, width=48) - best).mean()
    plain = np.abs(tf.image.resize(full, [48, 48]) - best).mean()
    assert ours < 0.7 * plain


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_part_equals_the_part_of_the_whole_but_for_its_border(photo, ratio, subsampling):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", subsampling=subsampling)
    encoded = tf.constant(file.getvalue())
    index = tf.constant([1, 2, 4, 8].index(ratio))
    whole = decode_jpeg(encoded, index=index, count=4).numpy()
    assert whole.shape == (-(-93 // ratio), -(-131 // ratio), 3)
    for left in range(0, 8):
        part = decode_jpeg(encoded, index=index, count=4, window=tf.constant([2, left, 7, 9]))
        np.testing.assert_array_equal(part[:, 1:-1], whole[2:9, left + 1 : left + 8])


def test_ratios_leave_at_least_one_pixel_each():
    factors = np.array([0.5, 1.0, 1.99, 2.0, 3.9, 4.0, 7.9, 8.0, 100.0], np.float32)
    assert ratio_index(tf.constant(factors)).numpy().tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert ratio_index(tf.constant(factors), 2).numpy().max() == 1
    assert usable_ratios(source_height=448, source_width=447, height=224, width=224) == 1
    assert usable_ratios(source_height=448, source_width=900, height=224, width=224) == 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("index", "ratio"), [(0, 1), (1, 2), (2, 4)])
def test_a_png_is_reduced_and_cut_as_a_jpeg_is(photo, mode, index, ratio):
    photo = photo[:92, :128]  # whole squares
    pixels = np.asarray(Image.fromarray(photo).convert(mode).convert("RGB"))
    encoded = _encoded(np.asarray(Image.fromarray(photo).convert(mode)), "PNG")
    whole = decode_jpeg_or_png(tf.constant(encoded), index=tf.constant(index), count=3)
    assert whole.dtype == tf.uint8
    assert whole.shape == decode_jpeg(tf.constant(jpeg(photo)), index=tf.constant(index), count=3).shape
    squares = pixels.reshape(92 // ratio, ratio, 128 // ratio, ratio, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(whole, squares, atol=0.51)
    window = tf.constant([3, 5, 11, 17])
    part = decode_jpeg_or_png(tf.constant(encoded), index=tf.constant(index), count=3, window=window)
    np.testing.assert_array_equal(part, whole[3:14, 5:22])
    # A JPEG beside it comes out as ever.
    as_jpeg = tf.constant(jpeg(photo))
    np.testing.assert_array_equal(
        decode_jpeg_or_png(as_jpeg, index=tf.constant(index), count=3, window=window),
        decode_jpeg(as_jpeg, index=tf.constant(index), count=3, window=window),
    )
