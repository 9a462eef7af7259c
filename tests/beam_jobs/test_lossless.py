"""Tests that sources of pixels lose nothing: what TFDS, Pillow and our own input pipeline read is what was put in."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pipeline.augment.config import AugmentConfig
from pipeline.dataset import eval_dataset, train_dataset
from pipeline.format.manifest import open_dataset
from pipeline.format.records import Record
from tests.beam_jobs.sources.test_cifar import python_files, upright, write_tar

WINDOWS = AugmentConfig(flip=0.5, shift=0.1, zoom=0.2)


def build(*arguments):
    command = [sys.executable, "-m", "beam_jobs.build_tfrecords", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Builds a small CIFAR-10; returns the version and split → pixels and labels."""
    base = tmp_path_factory.mktemp("cifar")
    files, expected = python_files(per_batch=(40, 40))
    archive = write_tar(base / "cifar.tar.gz", files)
    build("--source=cifar10", f"--input={archive}", f"--output={base / 'data'}", "--validation_fraction=0")
    return open_dataset(base / "data"), expected


def pixels_of(record: Record) -> np.ndarray:
    image = Image.open(io.BytesIO(record.image))
    assert image.format == "PNG"
    return np.asarray(image)


@pytest.mark.slow
def test_cifar_comes_back_to_the_bit(cifar):
    data, expected = cifar
    assert data.manifest.has_png
    for split, (planes, labels) in expected.items():
        wanted = {f"cifar10://{split}/{i}": (pixels, labels[i]) for i, pixels in enumerate(upright(planes))}
        for record in data.read(split):
            pixels, label = wanted.pop(record.source)
            assert np.array_equal(pixels_of(record), pixels)
            assert record.label == label
        assert not wanted


@pytest.mark.slow
def test_plain_tfds_reads_it_to_the_bit(cifar):
    data, expected = cifar
    builder = tfds.builder_from_directory(data.path)
    for split, (planes, _) in expected.items():
        wanted = {f"cifar10://{split}/{i}": pixels for i, pixels in enumerate(upright(planes))}
        found = {row["source"].decode(): row["image"] for row in tfds.as_numpy(builder.as_dataset(split=split))}
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[uri], wanted[uri]) for uri in wanted)


@pytest.mark.slow
def test_evaluation_sees_the_very_pixels(cifar):
    data, expected = cifar
    sizes = {"height": 32, "width": 32, "preprocess": "identity", "global_batch_size": 2}
    images = np.concatenate([batch["image"].numpy() for batch in eval_dataset(data, "test", **sizes)])
    planes, _ = expected["test"]
    assert sorted(image.tobytes() for image in images.astype(np.uint8)) == sorted(p.tobytes() for p in upright(planes))


def epoch(data, size, cache):
    batches = train_dataset(
        data,
        "train",
        height=size,
        width=size,
        preprocess="identity",
        augment=WINDOWS,
        seed=1,
        epoch=0,
        global_batch_size=20,
        cache=cache,
    )
    return np.concatenate([batch["image"].numpy() for batch in batches])


@pytest.mark.slow
def test_training_cuts_windows_out_of_pngs(cifar):
    """Where the decoded pixels are kept, no PNG is cut: that is the reference."""
    data, _ = cifar
    images = epoch(data, 32, "none")
    assert images.shape == (80, 32, 32, 3)
    assert images.std() > 10
    np.testing.assert_array_equal(images, epoch(data, 32, "pixels"))
    reduced = epoch(data, 12, "none")  # by 2, before they are cut
    assert reduced.shape == (80, 12, 12, 3)
    np.testing.assert_array_equal(reduced, epoch(data, 12, "bytes"))


class Noise(tfds.core.GeneratorBasedBuilder):
    """Offers random pixels, of which JPEG keeps nothing, some grey."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(1, 8)}

    def _generate_examples(self, seed, count):
        chance = np.random.default_rng(seed)
        for i in range(count):
            yield i, {"image": chance.integers(0, 256, (28, 28, 1), np.uint8), "label": i % 2}


def test_a_set_of_tfds_comes_back_to_the_bit(tmp_path):
    builder = Noise(data_dir=str(tmp_path / "tfds"))
    builder.download_and_prepare()
    build("--source=tfds", f"--input={builder.data_path}", f"--output={tmp_path / 'data'}", "--validation_fraction=0")
    data = open_dataset(tmp_path / "data")
    for split in ("train", "test"):
        wanted = sorted(row["image"].tobytes() for row in tfds.as_numpy(builder.as_dataset(split=split)))
        assert sorted(pixels_of(record).tobytes() for record in data.read(split)) == wanted
