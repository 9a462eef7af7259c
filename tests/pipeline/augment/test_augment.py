"""Tests every operation alone against an independent rendering, and the distributions of the parameters."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from pipeline.augment import colour, geometry
from pipeline.augment.config import AugmentConfig
from pipeline.augment.describe import describe
from pipeline.augment.random_bits import mix_numpy, uniforms
from pipeline.augment.render import Renderer, draw
from pipeline.decode import resize
from pipeline.view import STRETCH
from tests.datasets import jpeg, smooth_image

IMAGE = smooth_image(np.random.default_rng(5), height=48, width=64)
ENCODED = tf.constant(jpeg(IMAGE, quality=95))
DECODED = tf.io.decode_jpeg(ENCODED, channels=3, dct_method="INTEGER_ACCURATE").numpy()
KEY = tf.constant(77, tf.uint64)


def _identities(count):
    return tf.constant(mix_numpy(np.arange(count, dtype=np.uint64)))


def _draw(config, count, *, aspect=4 / 3, output_aspect=1.0):
    aspects = tf.fill([count], tf.constant(aspect, tf.float32))
    return draw(config, _identities(count), key=KEY, aspect=aspects, output_aspect=output_aspect)


def _render(config, count, *, height=48, width=64):
    renderer = Renderer(height=height, width=width, largest=(48, 64), augment=config)
    columns = {
        "identity": _identities(count),
        "height": tf.fill([count], 48),
        "width": tf.fill([count], 64),
        "encoded": tf.fill([count], ENCODED),
    }
    rows = renderer.draw(columns, KEY)
    return [renderer.render({name: value[i] for name, value in rows.items()}).numpy() for i in range(count)], rows


def test_the_identity_changes_nothing():
    images, _ = _render(AugmentConfig(), 2)
    np.testing.assert_array_equal(images[0], DECODED.astype(np.float32))
    assert _draw(AugmentConfig(), 3) == {}


def test_flip():
    images, rows = _render(AugmentConfig(flip=True), 20)
    for image, flipped in zip(images, rows["flip"].numpy(), strict=True):
        np.testing.assert_array_equal(image, DECODED[:, ::-1] if flipped else DECODED)
    assert 0 < rows["flip"].numpy().sum() < 20


def test_shift_moves_whole_pixels_and_mirrors_at_the_border():
    images, rows = _render(AugmentConfig(shift=0.4), 20)
    padded = np.pad(DECODED, ((48, 48), (64, 64), (0, 0)), mode="symmetric")
    for image, affine in zip(images, rows["map"].numpy(), strict=True):
        x, y = (np.floor(affine[:, 2] * [64, 48] + 0.5)).astype(int)
        np.testing.assert_array_equal(image, padded[48 + y : 96 + y, 64 + x : 128 + x])
        assert abs(x) <= 26
        assert abs(y) <= 19


def _bilinear(pixels, affine, *, height, width):
    """Renders by scipy: output (x, y) → source, across the image from -0.5 to 0.5."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5, indexing="ij")
    source = np.einsum("ij,jhw->ihw", affine, np.stack([x, y, np.ones_like(x)]))
    at = [(source[1] + 0.5) * pixels.shape[0] - 0.5, (source[0] + 0.5) * pixels.shape[1] - 0.5]
    channels = [ndimage.map_coordinates(pixels[..., c].astype(float), at, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (96, 80)])
def test_rotation_equals_scipy(size):
    height, width = size
    images, rows = _render(AugmentConfig(rotation=30.0), 5, height=height, width=width)
    turned = 2.0 * uniforms(_identities(5), key=KEY, draws=16).numpy()[:, 5] - 1.0
    for image, part in zip(images, turned, strict=True):
        angle = np.radians(30.0 * part)
        # A true rotation of the output's pixels, which lie on a square grid.
        to_pixels = np.diag([width, height])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        affine = np.column_stack([np.linalg.inv(to_pixels) @ turn @ to_pixels, np.zeros(2)])
        difference = np.abs(image - _bilinear(DECODED, affine, height=height, width=width))
        assert difference.max() < 1.0  # the angle comes in 4096 steps: at most 0.007 degrees off
    assert "map" in rows


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(shear=0.4),
        AugmentConfig(rotation=20.0, shear=0.2, zoom=0.3, shift=0.2, flip=True),
        AugmentConfig(rotation=5.0, random_resized_crop=0.2),
    ],
    ids=["shear", "all", "crop"],
)
def test_composed_maps_equal_scipy(config):
    images, rows = _render(config, 5, height=37, width=53)
    for image, affine in zip(images, rows["map"].numpy(), strict=True):
        assert np.abs(image - _bilinear(DECODED, affine, height=37, width=53)).max() < 0.01


@pytest.mark.parametrize(
    "config",
    [AugmentConfig(zoom=0.4), AugmentConfig(random_resized_crop=0.2, flip=True, shift=0.1)],
    ids=["zoom", "crop"],
)
def test_windows_equal_a_crop_of_whole_pixels_that_is_resized(config):
    images, rows = _render(config, 10, height=60, width=60)
    padded = np.pad(DECODED, ((48, 48), (64, 64), (0, 0)), mode="symmetric")
    for image, affine in zip(images, rows["map"].numpy(), strict=True):
        extent = np.abs(np.diag(affine[:, :2]))
        left, top = np.floor((affine[:, 2] + 0.5 - extent / 2) * [64, 48] + 0.5).astype(int)
        width, height = np.floor(extent * [64, 48] + 0.5).astype(int)
        part = padded[48 + top : 48 + top + height, 64 + left : 64 + left + width]
        part = part[:, ::-1] if affine[0, 0] < 0 else part
        np.testing.assert_allclose(image, tf.image.resize(part, [60, 60]), atol=1e-3)


def test_a_crop_of_a_large_photo_is_decoded_at_the_resolution_it_needs():
    maps = tf.constant([[[1.0, 0, 0], [0, 1.0, 0]], [[0.3, 0, 0.2], [0, 0.3, -0.1]]])
    windows = geometry.source_windows(
        maps,
        tf.constant([1000, 1000]),
        tf.constant([1503, 1503]),
        height=224,
        width=224,
        view=STRETCH,
        count=4,
        parts=True,
    )
    assert windows["ratio"].numpy().tolist() == [2, 0]  # 1000 / 224 = 4.5, so 1/4; 300 / 224 = 1.3, so 1/1
    assert windows["window"].numpy().tolist() == [[0, 0, 250, 376], [250, 826, 300, 453]]
    assert windows["columns"].numpy().tolist() == [[0, 376], [1, 452]]


def test_warp_with_the_identity_is_a_resize():
    pixels = tf.constant(DECODED)
    for height, width in ((37, 53), (96, 80)):
        warped = geometry.warp(
            pixels, tf.constant([[1.0, 0, 0], [0, 1.0, 0]]), height=height, width=width, view=STRETCH
        )
        np.testing.assert_allclose(warped, resize(pixels, height=height, width=width), atol=2e-3)


def _recolour(config, count=8):
    pixels = DECODED.astype(np.float32)
    drawn = _draw(config, count)
    rows = [{name: value[i] for name, value in drawn.items()} for i in range(count)]
    images = [colour.recolour(pixels, row["matrix"], row["contrast"], row["brightness"]).numpy() for row in rows]
    return images, {name: value.numpy() for name, value in drawn.items()}


def test_brightness():
    images, drawn = _recolour(AugmentConfig(brightness=0.3))
    for image, delta in zip(images, drawn["brightness"], strict=True):
        np.testing.assert_allclose(image, np.clip(DECODED + delta, 0, 255), atol=1e-3)
        assert abs(delta) <= 0.3 * 255


def test_contrast_equals_pillow():
    images, drawn = _recolour(AugmentConfig(contrast=0.6))
    for image, factor in zip(images, drawn["contrast"], strict=True):
        expected = np.asarray(ImageEnhance.Contrast(Image.fromarray(DECODED)).enhance(float(factor)))
        assert np.abs(image - expected).max() <= 1.5  # Pillow rounds the mean and the result to whole numbers


def test_saturation_equals_pillow():
    images, drawn = _recolour(AugmentConfig(saturation=0.8))
    for image, matrix in zip(images, drawn["matrix"], strict=True):
        factor = matrix[0, 0] - matrix[1, 0]  # s + (1 - s) * luma - (1 - s) * luma
        expected = np.asarray(ImageEnhance.Color(Image.fromarray(DECODED)).enhance(float(factor)))
        assert np.abs(image - expected).max() <= 1.5


def test_hue_turns_the_colours_of_yiq():
    images, _ = _recolour(AugmentConfig(hue=0.1))
    turns = 2.0 * uniforms(_identities(8), key=KEY, draws=16).numpy()[:, 13] - 1.0
    yiq = tf.image.rgb_to_yiq(DECODED / np.float32(255)).numpy()
    for image, turn in zip(images, turns, strict=True):
        angle = turn * 0.1 * 2 * np.pi
        turned = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(1j * angle)
        rgb = tf.image.yiq_to_rgb(np.stack([yiq[..., 0], turned.real, turned.imag], axis=-1).astype(np.float32))
        assert np.abs(image - np.clip(rgb * 255, 0, 255)).max() < 0.5


def test_all_colours_together_equal_one_after_the_other_but_for_clipping():
    config = AugmentConfig(brightness=0.05, contrast=0.1, saturation=0.5)
    images, drawn = _recolour(config)
    for i, image in enumerate(images):
        grey = (DECODED @ np.array(colour.LUMA)).mean()
        step = (DECODED - grey) * drawn["contrast"][i] + grey
        step = step @ drawn["matrix"][i].T + drawn["brightness"][i]
        np.testing.assert_allclose(image, np.clip(step, 0, 255), atol=1e-2)


@pytest.mark.parametrize("fill", [0.0, 127.0])
def test_cutout(fill):
    config = AugmentConfig(cutout_count=3, cutout_size=0.4, cutout_fill=fill)
    images, rows = _render(config, 10)
    for image, squares in zip(images, rows["cutouts"].numpy(), strict=True):
        expected = DECODED.astype(np.float32)
        for left, top, right, bottom in squares:
            # Pixels whose centre lies inside.
            x0, x1 = (int(np.ceil(np.clip(v, 0, 1) * 64 - 0.5)) for v in (left, right))
            y0, y1 = (int(np.ceil(np.clip(v, 0, 1) * 48 - 0.5)) for v in (top, bottom))
            expected[y0:y1, x0:x1] = fill
        np.testing.assert_array_equal(image, expected)


def test_a_batch_equals_its_images_and_xla_equals_both(xla):
    config = AugmentConfig(brightness=0.1, contrast=0.3, saturation=0.3, hue=0.05, cutout_count=2, cutout_size=0.3)
    drawn = _draw(config, 4)
    batch = tf.constant(np.stack([np.roll(DECODED, i, axis=0) for i in range(4)]).astype(np.float32))

    def both(images, row):
        coloured = colour.recolour(images, row["matrix"], row["contrast"], row["brightness"])
        return colour.cut_out(coloured, row["cutouts"], fill=0.0)

    single = np.stack([both(batch[i], {k: v[i] for k, v in drawn.items()}) for i in range(4)])
    np.testing.assert_allclose(both(batch, drawn), single, atol=1e-3)
    np.testing.assert_allclose(xla(both)(batch, drawn), single, atol=1e-3)


COUNT = 10_000


def test_distributions_of_the_maps():
    drawn = _draw(AugmentConfig(flip=True, shift=0.2), COUNT)["map"].numpy()
    flips = (drawn[:, 0, 0] < 0).sum()
    assert abs(flips - COUNT / 2) < 4 * np.sqrt(COUNT / 4)
    for axis in (0, 1):
        assert stats.kstest(drawn[:, axis, 2], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-4
    zooms = _draw(AugmentConfig(zoom=0.3), COUNT)["map"].numpy()[:, 0, 0]
    assert stats.kstest(zooms, stats.uniform(0.7, 0.6).cdf).pvalue > 1e-4
    turned = _draw(AugmentConfig(rotation=25.0), COUNT)["map"].numpy()
    angles = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert stats.kstest(angles, stats.uniform(-25, 50).cdf).pvalue > 1e-4


def test_distributions_of_the_crops():
    crops = _draw(AugmentConfig(random_resized_crop=0.25), COUNT, aspect=1.0)["map"].numpy()
    width, height = crops[:, 0, 0], crops[:, 1, 1]
    inside = (width < 1) & (height < 1)
    area, ratio = (width * height)[inside], (width / height)[inside]
    assert inside.mean() > 0.7
    assert 0.25 <= area.min() < 0.26
    assert 0.75 - 1e-3 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-3
    small = area[area < 0.7]  # where no side is clipped, areas are uniform
    assert stats.kstest(small, stats.uniform(0.25, 0.45).cdf).pvalue > 1e-4
    for axis, size in ((0, width), (1, height)):
        low = crops[:, axis, 2] + 0.5 - size / 2
        assert low.min() > -1e-6
        assert (low + size).max() < 1 + 1e-6
        assert stats.kstest(low[size < 0.9] / (1 - size[size < 0.9]), stats.uniform.cdf).pvalue > 1e-4


def test_distributions_of_colours_and_cutouts():
    drawn = _draw(AugmentConfig(brightness=0.2, contrast=0.3, saturation=0.4), COUNT)
    assert stats.kstest(drawn["brightness"], stats.uniform(-51, 102).cdf).pvalue > 1e-4
    assert stats.kstest(drawn["contrast"], stats.uniform(0.7, 0.6).cdf).pvalue > 1e-4
    matrix = drawn["matrix"].numpy()
    assert stats.kstest(matrix[:, 0, 0] - matrix[:, 1, 0], stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4
    np.testing.assert_allclose(matrix.sum(axis=2), 1.0, atol=1e-5)  # grey stays grey
    squares = _draw(AugmentConfig(cutout_count=1, cutout_size=0.4), COUNT)["cutouts"].numpy()[:, 0]
    covered = np.clip(squares, 0, 1)
    area = (covered[:, 2] - covered[:, 0]) * (covered[:, 3] - covered[:, 1])
    # A side of 0.4 loses 0.1 on average within 0.2 of a border, twice 0.2 of the range: 0.36 stays.
    assert abs(area.mean() - 0.36**2) < 4 * area.std() / np.sqrt(COUNT)


def test_descriptions_state_what_was_drawn():
    config = AugmentConfig(flip=True, brightness=0.5)
    drawn = _draw(config, 20)
    for lines, affine, brightness in zip(
        describe(config, _identities(20), key=KEY),
        drawn["map"].numpy(),
        drawn["brightness"].numpy(),
        strict=True,
    ):
        assert ("flip" in lines[0]) == (affine[0, 0] < 0)
        assert f"brightness {brightness / 255:+.0%}" in lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": -0.1}, r"shift must be in 0\.\.1, got -0\.1"),
        ({"rotation": 200.0}, "rotation"),
        ({"cutout_count": 2}, "set together"),
        ({"cutout_fill": 300.0}, "cutout_fill"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)
