"""Tests what is seen of tall, wide, square and thin images, against Pillow and SciPy, in every path that shows them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from scipy import ndimage

from pipeline.augment.config import AugmentConfig
from pipeline.augment.random_bits import mix_numpy
from pipeline.augment.render import Renderer
from pipeline.command import UsageError
from pipeline.dataset import eval_dataset, train_dataset
from pipeline.decode import decode_and_resize, usable_ratios
from pipeline.framing import placed
from pipeline.view import RESIZES, View
from tests.datasets import jpeg, record, smooth_image, write_dataset

GREY = (127, 127, 127)
# Heights and widths: tall, wide, square, thin; larger than the output and smaller.
SHAPES = ((24, 12), (12, 30), (20, 20), (1, 50), (30, 1), (1, 1), (90, 61), (60, 131), (300, 140), (1, 400), (333, 2))
KEY = tf.constant(77, tf.uint64)


def _pixels(height, width, seed=1):
    return smooth_image(np.random.default_rng(seed), height=height, width=width)


def _encoded(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=95)
    return tf.constant(file.getvalue())


@pytest.mark.parametrize(
    ("shape", "side"), [((24, 12), 48), ((12, 30), 60), ((20, 20), 50), ((2, 50), 100), ((30, 1), 60), ((1, 1), 9)]
)
def test_pad_and_crop_equal_pillows(shape, side):
    """Enlarges only: Pillow filters where it makes images smaller."""
    pixels = _pixels(*shape)
    image, size = Image.fromarray(pixels), (side, side)
    expected = {
        "stretch": image.resize(size, Image.Resampling.BILINEAR),
        "pad": ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=GREY),
    }
    side_of_crop, (left, top) = min(shape), ((shape[1] - min(shape)) // 2, (shape[0] - min(shape)) // 2)
    cropped = image.crop((left, top, left + side_of_crop, top + side_of_crop))
    expected["crop"] = cropped.resize(size, Image.Resampling.BILINEAR)
    for resize, reference in expected.items():
        found = decode_and_resize(_encoded(pixels), height=side, width=side, view=View(resize=resize))
        assert np.abs(found - np.asarray(reference, np.float32)).max() <= 1.01, resize  # Pillow's are whole numbers


def _bilinear(pixels, affine, box, *, height, width, view):
    """Renders by SciPy: output (x, y) → view (x, y), from -0.5 to 0.5; `box`: its first pixel and size (y, x)."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5, indexing="ij")
    seen = np.einsum("ij,jhw->ihw", affine, np.stack([x, y, np.ones_like(x)]))
    first, size = box
    at = [(seen[1] + 0.5) * size[0] + first[0] - 0.5, (seen[0] + 0.5) * size[1] + first[1] - 0.5]
    beyond = {"mode": "grid-constant", "cval": 127.0} if view.pads else {"mode": "reflect"}
    channels = [ndimage.map_coordinates(pixels[..., c].astype(float), at, order=1, **beyond) for c in range(3)]
    return np.stack(channels, axis=-1)


def _box(height, width, *, resize, aspect):
    """Returns the box of a view (first pixel, size; y, x) from the words of its definition; aspect = width / height."""
    wide = width >= height * aspect
    size = {
        "stretch": (height, width),
        "pad": (round(width / aspect), width) if wide else (height, round(height * aspect)),
        "crop": (height, round(height * aspect)) if wide else (round(width / aspect), width),
    }[resize]
    size = np.maximum(size, 1)
    beside = np.array([height, width]) - size
    return beside / 2 if resize == "pad" else beside // 2, size


def _render(config, pixels, count, *, height, width, view, form="PNG"):
    renderer = Renderer(
        height=height, width=width, largest=pixels.shape[:2], has_png=form == "PNG", augment=config, view=view
    )
    columns = {
        "identity": tf.constant(mix_numpy(np.arange(count, dtype=np.uint64))),
        "height": tf.fill([count], pixels.shape[0]),
        "width": tf.fill([count], pixels.shape[1]),
        "encoded": tf.fill([count], _encoded(pixels, form)),
    }
    rows = renderer.draw(columns, KEY)
    return [renderer.render({name: value[i] for name, value in rows.items()}).numpy() for i in range(count)], rows


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(32, 32), (24, 36)])
def test_what_nothing_moves_is_seen_alike_in_training_and_evaluation(resize, size):
    """A window that is the whole view, and a warp that turns by nothing, go other ways to the same pixels."""
    height, width = size
    for shape in SHAPES:
        pixels, view = _pixels(*shape), View(resize=resize)
        for form in ("PNG", "JPEG") if min(shape) > 7 else ("PNG",):
            evaluated = decode_and_resize(_encoded(pixels, form), height=height, width=width, view=view).numpy()
            options = {"height": height, "width": width, "view": view, "form": form}
            (window,), _ = _render(AugmentConfig(zoom=1e-9), pixels, 1, **options)
            assert np.abs(window - evaluated).max() <= (0.51 if form == "PNG" else 0), shape  # PNGs: averaged, rounded
            if usable_ratios(source_height=shape[0], source_width=shape[1], height=height, width=width, view=view) > 1:
                continue
            if form == "JPEG":
                continue
            box = _box(*shape, resize=resize, aspect=width / height)
            reference = _bilinear(pixels, np.eye(2, 3), box, height=height, width=width, view=view)
            (warped,), _ = _render(AugmentConfig(rotation=1e-6), pixels, 1, **options)
            np.testing.assert_allclose(warped, reference, atol=0.02, err_msg=str(shape))
            if resize != "pad":
                (top, left), (rows, columns) = box
                cut = pixels[top : top + rows, left : left + columns]  # what lies beside it shows in a warp only
                reference = _bilinear(cut, np.eye(2, 3), ((0, 0), box[1]), height=height, width=width, view=view)
                np.testing.assert_allclose(evaluated, reference, atol=0.02, err_msg=str(shape))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
def test_augmentation_moves_the_view(resize, shape):
    view, pixels = View(resize=resize), _pixels(*shape)
    box = _box(*shape, resize=resize, aspect=64 / 48)
    options = {"height": 48, "width": 64, "view": view}
    turned, rows = _render(AugmentConfig(rotation=20.0, zoom=0.3, shift=0.2, flip=True), pixels, 5, **options)
    for image, affine in zip(turned, rows["map"].numpy(), strict=True):
        assert np.abs(image - _bilinear(pixels, affine, box, **options)).max() < 0.02
    # A window's edges are whole pixels of the source, and of the output where it is padded.
    for config in (AugmentConfig(zoom=0.3, shift=0.2, flip=True), AugmentConfig(random_resized_crop=0.3, flip=True)):
        cut, rows = _render(config, pixels, 8, **options)
        for image, affine in zip(cut, rows["map"].numpy(), strict=True):
            assert np.abs(image - _bilinear(pixels, affine, box, **options)).mean() < 6
    flipped, rows = _render(AugmentConfig(flip=True), pixels, 8, **options)
    plain = decode_and_resize(_encoded(pixels), height=48, width=64, view=view).numpy()
    for image, mirrored in zip(flipped, rows["flip"].numpy(), strict=True):
        np.testing.assert_allclose(image, plain[:, ::-1] if mirrored else plain, atol=1e-3)
    assert 0 < rows["flip"].numpy().sum() < 8


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(300, 100), (90, 400)])
def test_a_random_area_of_a_padded_image_is_as_far_inside_of_it_as_it_fits(shape):
    pixels, view = np.full((*shape, 3), 250, np.uint8), View(resize="pad")
    options = {"height": 64, "width": 64, "view": view}
    images, rows = _render(AugmentConfig(random_resized_crop=0.05), pixels, 200, **options)
    covered = np.array(shape) / max(shape)
    for image, affine in zip(images, rows["map"].numpy(), strict=True):
        shows = (image > 200).all(axis=-1)
        size = np.diag(affine[:, :2])[::-1]
        assert 0.05 - 1e-3 < size.prod() <= 1
        for axis, seen in enumerate((shows.any(axis=1), shows.any(axis=0))):
            assert abs(seen.mean() - min(1, covered[axis] / size[axis])) < 1.6 / 64  # edges are whole pixels
            assert size[axis] < covered[axis] or abs(np.flatnonzero(seen).mean() - 31.5) <= 1.5
    assert min((image > 200).mean() for image in images) < 0.4
    assert max((image > 200).mean() for image in images) == 1


def test_a_random_area_of_a_cropped_image_lies_in_its_centre():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 250
    images, _ = _render(
        AugmentConfig(random_resized_crop=0.2), pixels, 50, height=32, width=32, view=View(resize="crop")
    )
    assert np.min(images) == 250


def test_what_lies_beside_the_view_shows_where_augmentation_moves_it_there():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 80:] = 250
    images, rows = _render(AugmentConfig(shift=0.3), pixels, 20, height=40, width=40, view=View(resize="crop"))
    for image, affine in zip(images, rows["map"].numpy(), strict=True):
        assert (image[0, :, 0] == 250).sum() == max(0, round(float(affine[0, 2]) * 40))


def test_a_window_that_misses_a_padded_image_keeps_one_line_of_it():
    axis = {"size": tf.constant([10, 10, 10]), "output": 32}
    found = placed(tf.constant([0.0, 12.0, 4.5]), after=tf.constant([14.0, 0.0, 4.5]), **axis).numpy().tolist()
    assert found == [[0, 1], [31, 32], [14, 18]]
    images, _ = _render(
        AugmentConfig(zoom=0.9, shift=0.25), _pixels(2, 90), 50, height=32, width=32, view=View(resize="pad")
    )
    assert np.isfinite(images).all()
    assert ((np.array(images) == 127).all(axis=(2, 3)).sum(axis=1) <= 31).all()


def test_a_padded_photo_is_reduced_by_its_longer_side():
    size = {"height": 224, "width": 224}
    assert usable_ratios(source_height=300, source_width=1000, **size) == 1
    assert usable_ratios(source_height=300, source_width=1000, **size, view=View(resize="pad")) == 3
    assert usable_ratios(source_height=1000, source_width=2000, **size, view=View(resize="crop")) == 3
    noise = np.random.default_rng(0).integers(0, 2, (2, 2048, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    found = decode_and_resize(_encoded(noise), height=64, width=64, view=View(resize="pad")).numpy()
    assert (found[:31] == 127).all()
    assert found[31].std() < 60  # its columns averaged; it would be 127 if every 32nd were taken


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = [jpeg(_pixels(h, w, seed=i)) for i, (h, w) in enumerate([(20, 44), (44, 9), (30, 30), (8, 40)] * 3)]
    records = [record(image, i % 2, name=str(i)) for i, image in enumerate(images)]
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": records}, ["a", "b"])


@pytest.mark.parametrize(
    ("on_accelerator", "view"),
    [
        (False, View(resize="pad")),
        pytest.param(False, View(resize="crop"), marks=pytest.mark.slow),
        (False, View(resize="crop", eval_centre=0.8)),
        pytest.param(True, View(resize="pad"), marks=pytest.mark.slow),
        pytest.param(True, View(resize="crop"), marks=pytest.mark.slow),
        (True, View(resize="crop", eval_centre=0.8)),
    ],
    ids=[f"{on_accelerator}-view{number}" for on_accelerator in (False, True) for number in range(3)],
)
def test_every_cache_shows_the_same(data, view, on_accelerator):
    sizes = {"height": 32, "width": 32, "preprocess": "identity", "global_batch_size": 4, "view": view}
    evaluated = {}
    trained = {}
    augment = AugmentConfig(flip=True, zoom=0.2, random_resized_crop=0.4, on_accelerator=on_accelerator)
    for cache in ("none", "bytes", "pixels"):
        batches = eval_dataset(data, "train", **sizes, cache=cache, on_accelerator=on_accelerator)
        evaluated[cache] = np.concatenate([batch["image"] for batch in batches])
        batches = train_dataset(data, "train", **sizes, augment=augment, seed=1, epoch=2, cache=cache)
        trained[cache] = np.concatenate([batch["image"] for batch in batches])
    for found in (evaluated, trained):
        np.testing.assert_array_equal(found["none"], found["bytes"])
        assert np.abs(found["none"].astype(float) - found["pixels"]).max() <= (1 if on_accelerator else 1e-3)
    for row, one in zip(evaluated["none"], data.read("train"), strict=True):
        expected = decode_and_resize(tf.constant(one.image), height=32, width=32, view=view).numpy()
        np.testing.assert_allclose(row, np.round(expected) if on_accelerator else expected, atol=1e-3)


def test_padding_is_left_to_the_host(data):
    with pytest.raises(UsageError, match="cache=device: resize=pad puts grey beside images, which the host does"):
        eval_dataset(
            data, "train", height=32, width=32, preprocess="identity", global_batch_size=4, view=View(resize="pad"),
            cache="device",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "crpo"}, r'resize must be one of stretch, pad, crop, got "crpo". Did you mean "crop"\?'),
        ({"eval_centre": 1.5}, r"eval_centre must be in 0\.\.1, got 1\.5"),
        ({"resize": "pad", "eval_centre": 0.875}, "resize=pad shows whole images, and eval_centre=0.875 their centre"),
    ],
)
def test_what_cannot_be_seen_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        View(**settings)
