"""Tests the page's decoder under Node against libjpeg-turbo: every pixel, at every reduction, of every kind of JPEG."""

import io
import itertools
import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.images.encode import render
from pipeline.images.look import inspect
from pipeline.images.model_pixels import pixels
from pipeline.images.policy import PixelPolicy, Reject
from tests.datasets import smooth_image
from trainer.serving import page

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH")

SCRIPTS = pathlib.Path(page.__file__).parent
RATIOS = (1, 2, 4, 8)
SIZES = [(8, 8), (9, 41), (37, 21), (130, 97)]  # width, height
KINDS = {
    "4:2:0": {}, "4:2:2": {"subsampling": 1}, "4:4:4": {"subsampling": 0}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3}, "progressive restarts": {"progressive": True, "restart_marker_blocks": 2},
    "coarse": {"quality": 5}, "RGB": {"keep_rgb": True},
}  # fmt: skip
SPEC = {"height": 32, "width": 40, "resize": "stretch", "eval_centre": 0.0}


def smooth(width, height):
    return Image.fromarray(smooth_image(np.random.default_rng(width), height=height, width=width))


def noise(width, height):
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def by_pillow(data, ratio):
    """Decodes with libjpeg-turbo, reduced."""
    with Image.open(io.BytesIO(data)) as image:
        if ratio > 1:
            image.draft("CMYK" if image.mode == "CMYK" else "RGB", (image.width // ratio, image.height // ratio))
        return np.asarray(image.convert("RGB"))


class Node:
    """Collects jobs for the decoder and runs them in one process."""

    def __init__(self, folder):
        self.folder, self.jobs = folder, []

    def add(self, kind, data, **job):
        place = self.folder / str(len(self.jobs))
        place.write_bytes(data)
        self.jobs.append({"kind": kind, "file": str(place), "output": f"{place}.out", **job})

    def run(self, dtype):
        """Returns an array for each job, or what it complains of."""
        (self.folder / "jobs.json").write_text(json.dumps(self.jobs))
        command = ["node", pathlib.Path(__file__).with_name("under_node.js"), SCRIPTS, self.folder / "jobs.json"]
        subprocess.run(command, check=True)
        for job in self.jobs:
            error = pathlib.Path(f"{job['output']}.error")
            yield error.read_text() if error.exists() else np.fromfile(job["output"], dtype)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_decoded_pixels_are_libjpegs_to_the_bit(node):
    files = [
        jpeg(make(*size), **kind) for make, size, kind in itertools.product((smooth, noise), SIZES, KINDS.values())
    ]
    for size in SIZES:
        files += [jpeg(smooth(*size).convert(mode)) for mode in ("L", "CMYK")]
        files.append(jpeg(smooth(*size).convert("L"), progressive=True))
        files += [simplejpeg.encode_jpeg(np.array(smooth(*size)), colorsubsampling=way) for way in ("440", "411")]
    cases = list(itertools.product(files, RATIOS))
    for data, ratio in cases:
        node.add("decoded", data, ratio=ratio)
    for (data, ratio), found in zip(cases, node.run(np.uint8), strict=True):
        expected = by_pillow(data, ratio)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_what_the_builder_writes_need_not_be_written(node):
    """The coefficients of its JPEG are found without coding them."""
    cases = list(itertools.product([make(*size) for make in (smooth, noise) for size in SIZES], RATIOS))
    for image, ratio in cases:
        node.add("encoded", image.tobytes(), width=image.width, height=image.height, ratio=ratio)
    for (image, ratio), found in zip(cases, node.run(np.uint8), strict=True):
        policy = PixelPolicy()
        expected = by_pillow(jpeg(image, quality=policy.jpeg_quality, subsampling=policy.subsampling), ratio)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_the_model_is_shown_what_it_is_shown_in_python(node):
    views = (("stretch", 0.0), ("stretch", 0.875), ("crop", 0.0), ("crop", 0.9), ("pad", 0.0))
    specs = [{"height": 30, "width": 35, "resize": resize, "eval_centre": centre} for resize, centre in views]
    images = [smooth(*size) for size in ((131, 93), (15, 20), (321, 240), (45, 250), (199, 203))]
    cases = list(itertools.product(images, specs))
    for image, spec in cases:
        node.add("ofJpeg", jpeg(image), spec=spec)
        node.add("ofPixels", image.tobytes(), width=image.width, height=image.height, spec=spec)
    found = list(node.run(np.float32))
    for (image, spec), kept, written in zip(cases, found[::2], found[1::2], strict=True):
        png = io.BytesIO()
        image.save(png, "PNG")
        np.testing.assert_allclose(kept.reshape(30, 35, 3), pixels(jpeg(image), spec), atol=1e-3)
        record = render(png.getvalue(), PixelPolicy())
        np.testing.assert_allclose(written.reshape(30, 35, 3), pixels(record, spec), atol=1e-3)


def test_photos_are_turned_upright_as_the_builder_turns_them(node):
    files = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(jpeg(smooth(100, 77), exif=exif))
        node.add("ofJpeg", files[-1], spec=SPEC)
    for data, found in zip(files, node.run(np.float32), strict=True):
        np.testing.assert_allclose(found.reshape(32, 40, 3), pixels(render(data, PixelPolicy()), SPEC), atol=1e-3)


def test_what_the_builder_refuses_is_refused(node):
    whole = jpeg(noise(100, 100))
    spoilt = {
        "ends before its picture does": whole[: len(whole) // 2],
        "ends before its picture": whole[:300],
        "arithmetic-coded JPEG is not supported": whole.replace(b"\xff\xc0", b"\xff\xc9"),
        "7×100 pixels are too few, 8 a side at least": jpeg(smooth(7, 100)),
    }
    for data in spoilt.values():
        assert isinstance(inspect(data, PixelPolicy()), Reject)
        node.add("ofJpeg", data, spec=SPEC)
    for message, found in zip(spoilt, node.run(np.float32), strict=True):
        assert message in found
