"""Tests TFDS on a set that it prepares itself, read without TensorFlow and compared with TFDS's own reading."""

import io
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from beam_jobs.sources import open_source
from beam_jobs.sources.left_out import LeftOut
from pipeline.command import DataError, UsageError
from pipeline.images.policy import ReadError, RejectCode

SIZES = {"train": 30, "test": 7, "unlabelled": 3}


class SmallShapes(tfds.core.GeneratorBasedBuilder):
    """Offers small random images, some test images without a label, and features that are none of our business."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["zebra", "ant", "mole"]),
                    "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
                    "weight": tfds.features.Scalar(np.float32),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        chance = np.random.default_rng(len(split))
        for i in range(SIZES[split]):
            image = chance.integers(0, 256, (10 + i, 20, 3), np.uint8)
            label = -1 if split == "test" and i == 3 else i % 3
            yield i, {"image": image, "label": label, "boxes": [], "weight": 0.5}


class NoImages(tfds.core.GeneratorBasedBuilder):
    """Offers text."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "x", "label": 0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def prepared(data_dir):
    """Prepares the set, and returns the source that did."""
    source = open_source("tfds:small_shapes", input_path="small_shapes", options={"tfds_data_dir": data_dir})
    list(source.items())
    return source


def test_a_missing_set_is_prepared_and_read_as_tfds_reads_it(prepared, data_dir):
    items = list(prepared.items())
    left_out = [found.kind for found in prepared.listing() if isinstance(found, LeftOut)]
    assert set(left_out) == {"other_split", "unlabelled"}
    assert left_out.count("other_split") == 1
    assert [sum(item.split == split for item in items) for split in SIZES] == [30, 6, 0]
    assert prepared.labels() == ["zebra", "ant", "mole"]
    builder = tfds.builder("small_shapes", data_dir=data_dir)
    for split in ("train", "test"):
        expected = [
            (prepared.labels()[example["label"]], example["image"].tobytes())
            for example in tfds.as_numpy(builder.as_dataset(split=split))
            if example["label"] >= 0
        ]
        found = []
        for item in items:
            if item.split == split:
                image = Image.open(io.BytesIO(prepared.read(item)))
                found.append((item.label, np.asarray(image).tobytes()))
        assert sorted(found) == sorted(expected)


def test_a_prepared_set_needs_no_tensorflow(prepared, data_dir):
    code = """
import pickle, sys
from beam_jobs.sources import open_source
from beam_jobs.sources.left_out import LeftOut
from beam_jobs.sources.left_out import LeftOut
source = open_source("tfds:small_shapes:1.2.0", input_path="", options={"tfds_data_dir": sys.argv[1]})
items = list(source.items())
copy = pickle.loads(pickle.dumps(source))
assert all(copy.read(item)[:4] == b"\\x89PNG" for item in reversed(items))
assert "tensorflow" not in sys.modules
print(len(items))
"""
    done = subprocess.run([sys.executable, "-c", code, data_dir], capture_output=True, text=True, check=False)
    assert done.stdout == "36\n", done.stderr


def test_workers_do_not_even_import_tfds(prepared):
    items = list(prepared.items())
    code = """
import pickle, sys
source, item = pickle.load(sys.stdin.buffer)
assert source.read(item)
assert "tensorflow_datasets" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((prepared, items[0])), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_folder_of_a_prepared_version(prepared, data_dir):
    source = open_source("tfds", input_path=f"{data_dir}/small_shapes/1.2.0", options={})
    assert [item.uri for item in source.items()] == [item.uri for item in prepared.items()]
    assert source.fingerprint() == prepared.fingerprint()


def test_a_single_split_is_divided_by_the_build(prepared, data_dir, tmp_path):
    folder = shutil.copytree(f"{data_dir}/small_shapes/1.2.0", tmp_path / "small_shapes" / "1.2.0")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    source = open_source("tfds", input_path=str(folder), options={})
    assert {item.split for item in source.items()} == {None}


@pytest.mark.parametrize(
    ("spelt", "ours"),
    [
        (["train", "val"], {"train": 30, "validation": 7}),
        (["Training", "dev"], {"train": 30, "validation": 7}),
        (["train", "training"], {"train": 30}),
        (["train", "test_corrupted"], {"train": 30}),
    ],
)
def test_splits_under_other_names(prepared, data_dir, tmp_path, spelt, ours):
    folder = shutil.copytree(f"{data_dir}/small_shapes/1.2.0", tmp_path / "small_shapes" / "1.2.0")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] in ("train", "test")]
    for split, name in zip(sorted(info["splits"], key=lambda split: split["name"], reverse=True), spelt, strict=True):
        old = folder / f"small_shapes-{split['name']}.tfrecord-00000-of-00001"
        old.rename(folder / f"small_shapes-{name}.tfrecord-00000-of-00001")
        split["name"] = name
    (folder / "dataset_info.json").write_text(json.dumps(info))
    source = open_source("tfds", input_path=str(folder), options={})
    items = list(source.items())
    # One of the second split's seven images has no label.
    expected = {split: count - (split != "train") for split, count in ours.items()}
    assert {split: sum(item.split == split for item in items) for split in ours} == expected
    assert {item.split for item in items} == set(ours)
    left_out = [listed for listed in source.listing() if isinstance(listed, LeftOut) and listed.kind == "other_split"]
    assert [one.uri.rpartition("/")[2] for one in left_out] == ([spelt[1]] if len(ours) < 2 else [])


def test_damage_is_noticed(prepared, data_dir, tmp_path):
    folder = shutil.copytree(f"{data_dir}/small_shapes/1.2.0", tmp_path / "small_shapes" / "1.2.0")
    source = open_source("tfds", input_path=str(folder), options={})
    items = list(source.items())
    shard = folder / "small_shapes-train.tfrecord-00000-of-00001"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="truncated at byte"):
        list(source.items())
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    codes = []
    for item in items:
        try:
            source.read(item)
        except ReadError as error:
            codes.append(error.code)
    assert codes == [RejectCode.UNREADABLE]
    shard.unlink()
    with pytest.raises(DataError, match="No such file"):
        list(source.items())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifr10", 'Did you mean "cifar10"'),
        ("cifar10:9.9.9", "9.9.9"),
        ("huggingface:mnist", "neither a TFDS name"),
        ("../etc", "neither a TFDS name"),
        ("no_images", "no image classification set"),
    ],
)
def test_wrong_names(spec, message, data_dir):
    with pytest.raises(UsageError, match=message):
        list(open_source(f"tfds:{spec}", input_path="", options={"tfds_data_dir": data_dir}).items())


def test_a_dry_run_downloads_nothing(tmp_path):
    options = {"tfds_data_dir": str(tmp_path), "dry_run": "yes"}
    with pytest.raises(UsageError, match="without --dry_run"):
        list(open_source("tfds:small_shapes", input_path="", options=options).items())
    assert not list(tmp_path.iterdir())
