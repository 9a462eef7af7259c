import ast
import io
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.decode import decode_and_resize
from pipeline.images import model_pixels as module
from pipeline.images.model_pixels import pixels
from pipeline.view import View
from tests.datasets import smooth_image

VIEWS = [("stretch", 0.0), ("stretch", 0.875), ("crop", 0.0), ("crop", 0.9), ("pad", 0.0)]


def _file(height, width, form, *, mode="RGB", **options):
    image = Image.fromarray(smooth_image(np.random.default_rng(height * width), height=height, width=width))
    file = io.BytesIO()
    image.convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("source", "output"),
    [
        ((93, 131), (60, 70)),
        ((40, 31), (64, 64)),
        ((480, 641), (64, 64)),
        ((500, 90), (48, 64)),
        ((1003, 999), (64, 32)),
        ((5, 300), (16, 16)),
    ],
)
def test_pixels_are_those_of_the_evaluation(form, view, source, output):
    resize, centre = view
    data, (height, width) = _file(*source, form), output
    spec = {"height": height, "width": width, "resize": resize, "eval_centre": centre}
    expected = decode_and_resize(
        tf.constant(data), height=height, width=width, view=View(resize=resize, eval_centre=centre)
    )
    found = pixels(data, spec)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_real_photos_give_the_same_pixels(shared_data):
    spec = {"height": 224, "width": 224, "resize": "crop", "eval_centre": 0.0}
    for file in sorted((shared_data / "flowers").rglob("*.jpg"))[:20]:
        data = file.read_bytes()
        expected = decode_and_resize(tf.constant(data), height=224, width=224, view=View(resize="crop"))
        np.testing.assert_allclose(pixels(data, spec), expected, atol=2e-3)


def test_a_photo_that_brings_a_second_picture_along_is_a_jpeg_like_others():
    with Image.open(io.BytesIO(_file(480, 641, "JPEG", quality=95))) as image:
        file = io.BytesIO()
        image.save(file, "MPO", save_all=True, append_images=[image.resize((80, 60))])
    data = file.getvalue()
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    spec = {"height": 64, "width": 64, "resize": "stretch", "eval_centre": 0.0}
    expected = decode_and_resize(tf.constant(data), height=64, width=64, view=View())
    np.testing.assert_allclose(pixels(data, spec), expected, atol=2e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_lies_on_its_side_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(300, 417, "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    file = io.BytesIO()
    upright.save(file, "PNG")
    spec = {"height": 200, "width": 200, "resize": "crop", "eval_centre": 0.0}
    np.testing.assert_allclose(pixels(data, spec), pixels(file.getvalue(), spec), atol=1e-3)


def test_grey_images_and_those_with_transparency_have_three_channels():
    spec = {"height": 32, "width": 32, "resize": "stretch", "eval_centre": 0.0}
    for form, mode in (("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P")):
        assert pixels(_file(64, 64, form, mode=mode), spec).shape == (32, 32, 3)


def test_what_is_no_image_is_refused():
    with pytest.raises(OSError, match="cannot identify image file"):
        pixels(b"no image", {"height": 8, "width": 8, "resize": "stretch", "eval_centre": 0.0})


def test_the_file_needs_pillow_and_numpy_only():
    """It is copied into every export, for servers that have neither TensorFlow nor this project."""
    tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported - sys.stdlib_module_names == {"numpy", "PIL"}
