"""Tests building from Python: photos, arrays and tf.data sets, and what the command refuses."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.command import DataError, UsageError
from pipeline.format.manifest import open_dataset
from tests.beam_jobs.image_folders import make_folder
from trainer.api import build_dataset

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAMES = ["none", "some", "all"]


def command(*flags):
    line = [sys.executable, "-m", "beam_jobs.build_tfrecords", *flags]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def some_images(count=60, side=12):
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % 3


@pytest.fixture(scope="module")
def from_arrays(tmp_path_factory):
    images, labels = some_images()
    images[59] = images[56]  # of the same label
    root = tmp_path_factory.mktemp("arrays") / "data"
    return build_dataset((images, labels), root, label_names=NAMES, splits={"train": 0.5, "test": 0.5}), images, labels


def test_arrays_become_records_with_their_pixels(from_arrays):
    data, images, labels = from_arrays
    assert (data.labels, data.version) == (tuple(NAMES), "1.0.0")
    assert data.left_out == {"duplicate": 1}
    assert {split: sum(of.values()) for split, of in data.counts.items()} == {"train": 30, "test": 29}
    assert all(of[name] in (9, 10) for of in data.counts.values() for name in NAMES)
    read = open_dataset(data.path)
    for split in data.counts:
        for record in read.read(split):
            at = int(record.source.rpartition("/")[2])
            with Image.open(io.BytesIO(record.image)) as image:
                assert image.format == "PNG"
                np.testing.assert_array_equal(np.asarray(image), images[at])
            assert record.label == labels[at]


def test_a_set_of_tf_data_is_the_same_dataset(from_arrays):
    data, images, labels = from_arrays
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))
    for same in (pairs, pairs.batch(7)):
        again = build_dataset(same, data.path, label_names=NAMES, splits={"train": 0.5, "test": 0.5})
        assert again == data  # "nothing to do"


def test_given_splits_and_sizes_stay(tmp_path):
    images, labels = some_images()
    ragged = [image[: 8 + at % 5, : 8 + at % 4] for at, image in enumerate(images)]
    names = np.array(["a", "b", "c"])[labels]
    data = build_dataset(
        {"train": (ragged[:40], names[:40]), "test": (ragged[40:], names[40:])},
        tmp_path / "data",
        validation_fraction=0,
    )
    assert {split: sum(of.values()) for split, of in data.counts.items()} == {"train": 40, "test": 20}
    assert {(r.height, r.width) for r in open_dataset(data.path).read("test")} == {
        image.shape[:2] for image in ragged[40:]
    }


def test_photos_become_what_the_command_makes_of_them(tmp_path, capsys):
    make_folder(tmp_path / "photos")
    data = build_dataset(tmp_path / "photos", tmp_path / "data", seed=3, max_side=20, strip_metadata=True)
    assert "40 images: 40 kept" in capsys.readouterr().out
    flags = [
        f"--input={tmp_path}/photos",
        f"--output={tmp_path}/other",
        "--seed=3",
        "--max_side=20",
        "--strip_metadata",
    ]
    assert command(*flags).returncode == 0
    ours, theirs = open_dataset(data.path).manifest, open_dataset(tmp_path / "other").manifest
    assert (ours.splits, ours.build) == (theirs.splits, theirs.build)
    cell = data._repr_html_()
    assert cell.startswith("<iframe srcdoc=")
    assert "in 3 splits" in cell
    assert len(cell) < 30_000 < os.path.getsize(data.report)


def test_errors_are_the_command_s(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(b"nothing")
    make_folder(tmp_path / "photos", labels=["dog"], images=4)
    for kind, flags in (
        (UsageError, {"photos": f"{tmp_path}/none"}),
        (UsageError, {"max_sid": 3}),
        (UsageError, {"splits": {"train": 0.5}}),
        (DataError, {}),
    ):
        given = {"photos": f"{tmp_path}/photos", **flags}
        with pytest.raises(kind) as error:
            build_dataset(given.pop("photos"), tmp_path / "data", **given)
        plain = {"input": flags.get("photos", f"{tmp_path}/photos"), "output": f"{tmp_path}/data"} | given
        if "splits" in plain:
            plain["splits"] = "train:0.5"
        done = command(*(f"--{name}={value}" for name, value in plain.items()))
        assert (error.value.exit_code, f"error: {error.value}\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("data", "flags", "said"),
    [
        ((np.zeros((2, 8, 8), np.uint8), [1]), {}, "2 images and 1 labels"),
        ((np.zeros((2, 8, 8), np.float32), [0, 1]), {}, "image 0 is float32 [8, 8]; it must be uint8"),
        ({"training": (np.zeros((2, 8, 8), np.uint8), [0, 1])}, {}, '"training" is no split'),
        ((1, 2, 3), {}, "tuple is no pair"),
        (tf.data.Dataset.range(3), {}, "must yield pairs"),
        (tf.data.Dataset.from_tensors((np.zeros((8, 8), np.uint8), 1)).repeat(), {}, "leave repeat() out"),
        ((np.zeros((2, 8, 8), np.uint8), [0, 1]), {"source": "csv"}, "source=csv names files"),
        ("photos", {"label_names": ["a"]}, "label_names are for images in memory"),
        ("photos", {"dry_run": True}, "dry_run builds nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, data, flags, said):
    with pytest.raises(UsageError) as error:
        build_dataset(data, tmp_path / "data", **flags)
    assert said in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_ctrl_c_ends_the_build_and_not_the_process(tmp_path):
    """A build of many images is interrupted as a notebook does it, by a signal to the process alone, and goes on."""
    make_folder(tmp_path / "photos", labels=["cat", "dog", "hen"], images=900)
    code = textwrap.dedent(f"""
        from trainer.api import build_dataset
        try:
            build_dataset({str(tmp_path / "photos")!r}, {str(tmp_path / "data")!r})
            print("not interrupted")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(build_dataset({str(tmp_path / "photos")!r}, {str(tmp_path / "data")!r}).version)
    """)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        work = tmp_path / "data" / ".build" / "findings"
        while process.poll() is None and not list(work.glob("*/*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=300)
    assert said.splitlines()[0] == "interrupted", said
    assert said.splitlines()[-1] == "1.0.0"
