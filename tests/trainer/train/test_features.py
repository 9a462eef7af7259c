"""Tests that features, once computed, survive a stop, and that no others are ever taken for them."""

import dataclasses
import itertools
import os
import pathlib
import resource
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import ExitCode, TryAgainError, storage_error
from pipeline.format.rows import checks_folder
from tests.trainer.runs import small_recipe, train, weights
from trainer.devices.stopping import listening
from trainer.train import features
from trainer.train.evaluation import Evaluator
from trainer.train.features import FeatureParts
from trainer.train.model import build_from_recipe
from trainer.train.plan import Plan


@pytest.fixture
def every_call(monkeypatch):
    """Writes a part after every call, not every few seconds."""
    monkeypatch.setattr(features, "_SECONDS_A_PART", -1.0)


@pytest.fixture(scope="module")
def uninterrupted(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted")
    _, classifier, _ = train(tiny_data, small_recipe("phases.1.duration=1ep"), run)
    return run, weights(classifier)


def _stopped_at(call):
    """Returns what stops a run when it is asked for that time, e.g. before its n-th part is written."""
    counter = itertools.count(1)

    def check():
        if next(counter) == call:
            raise TryAgainError("stopped")

    return check


def _compute(data, recipe, run, *, seed=0, split="train", most=None):
    """Returns features, labels and the files of the parts."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=3, seed=seed)
    plan = Plan(
        recipe=recipe, data=data, seed=0, run=run, class_weights=np.ones(3, np.float32), stop_requested=lambda: False,
        cache="none",
    )  # fmt: skip
    backbone = classifier.lean_backbone
    evaluator = Evaluator(strategy, lambda x: backbone(x, training=False), lambda b: plan.images(b, augment=False))
    found = FeatureParts(plan, classifier, strategy).features(split, evaluator, most=most)
    return *found, sorted((run / "features").glob(f"{split}-*.npz"))


@pytest.mark.slow
def test_stopped_twice_while_it_caches_it_ends_in_the_same_place(
    uninterrupted, tiny_data, tmp_path, every_call, caplog
):
    run, expected = uninterrupted
    recipe = small_recipe("phases.1.duration=1ep")
    for parts in (2, 3):
        with pytest.raises(TryAgainError):
            train(tiny_data, recipe, tmp_path, check_owner=_stopped_at(parts))
    kept = sorted((tmp_path / "features").iterdir())
    assert len(kept) == 3  # one before the first stop, two before the second; and no halves
    stamps = [file.stat().st_mtime_ns for file in kept]
    with pytest.raises(TryAgainError), caplog.at_level("INFO", logger="absl"):
        train(tiny_data, recipe, tmp_path, stop_requested=_after(3))  # in the phase that trains on them
    assert "of 37 images have features from before" in caplog.text
    assert [file.stat().st_mtime_ns for file in kept] == stamps
    with caplog.at_level("INFO", logger="absl"):
        _, classifier, _ = train(tiny_data, recipe, tmp_path)
    assert "37 of 37 images have features from before" in caplog.text
    found = weights(classifier)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "features").exists()
    assert not (run / "features").exists()


def _after(calls):
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


@pytest.mark.slow
def test_a_run_stopped_in_a_later_phase_has_no_use_for_them(uninterrupted, tiny_data, tmp_path, every_call):
    _, expected = uninterrupted
    recipe = small_recipe("phases.1.duration=1ep")
    with pytest.raises(TryAgainError, match="in phase all"):
        train(tiny_data, recipe, tmp_path, stop_requested=_after(9))
    assert not (tmp_path / "features").exists()
    (tmp_path / "features").mkdir()  # of a run that was killed just before it removed them
    _, classifier, _ = train(tiny_data, recipe, tmp_path)
    assert not (tmp_path / "features").exists()
    assert all(np.array_equal(value, expected[path]) for path, value in weights(classifier).items())


def test_what_is_missing_is_computed_and_nothing_else_is_read(tiny_data, tmp_path, every_call):
    recipe = small_recipe()
    whole, labels, parts = _compute(tiny_data, recipe, tmp_path / "whole")
    assert labels.tolist() == [record.label for record in tiny_data.read("train")]
    assert len(parts) >= 3
    copy = dataclasses.replace(tiny_data, path=tmp_path / "data")
    shutil.copytree(tiny_data.path, copy.path)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    *before, last = sorted((tmp_path / "run" / "features").glob("train-*.npz"))
    assert int(last.stem.rpartition("-")[2]) >= 19  # in the second shard
    last.unlink()
    (copy.path / copy.manifest.shards("train")[0].name).unlink()
    found, again, _ = _compute(copy, recipe, tmp_path / "run")
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(again, labels)
    assert last.exists()
    assert len(before) == len(parts) - 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other", "array", "renamed"])
def test_damaged_parts_are_computed_anew_and_named(tiny_data, tmp_path, every_call, caplog, damage):
    recipe = small_recipe()
    whole, labels, parts = _compute(tiny_data, recipe, tmp_path)
    content = parts[1].read_bytes()
    middle = len(content) // 2
    np.save(tmp_path / "array.npy", np.zeros(3))
    parts[1].write_bytes(
        {
            "truncated": lambda: content[:middle],
            "empty": lambda: b"",
            "flipped": lambda: content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
            "other": lambda: b"not ours",
            "array": (tmp_path / "array.npy").read_bytes,
            "renamed": parts[0].read_bytes,
        }[damage]()
    )
    found, again, _ = _compute(tiny_data, recipe, tmp_path)
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(again, labels)
    assert caplog.text.count("damaged (") == 1
    assert f"{parts[1].name}: damaged (" in caplog.text


SLOWER = ("eval_centre=0.8", "image_size=20", "head.pooling=flatten")


@pytest.mark.parametrize(
    "change",
    [*("resize=crop", "batch_size=4", "weights", "split"), *(pytest.param(c, marks=pytest.mark.slow) for c in SLOWER)],
)
def test_other_features_are_never_taken_for_these(tiny_data, tmp_path, every_call, caplog, change):
    recipe = small_recipe()
    _compute(tiny_data, recipe, tmp_path / "one", seed=0)
    other = recipe if change in ("weights", "split") else small_recipe(change)
    options = {"seed": int(change == "weights"), "split": "validation" if change == "split" else "train"}
    with caplog.at_level("INFO", logger="absl"):
        found, labels, _ = _compute(tiny_data, other, tmp_path / "one", **options)
    assert "from before" not in caplog.text
    expected, truth, _ = _compute(tiny_data, other, tmp_path / "two", **options)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(labels, truth)


def test_what_a_check_has_computed_beside_the_dataset_is_read(tiny_data, tmp_path, every_call):
    data = dataclasses.replace(tiny_data, path=tmp_path / "data" / "versions" / "1.0.0")
    shutil.copytree(tiny_data.path, data.path)
    recipe = small_recipe()
    whole, labels, _ = _compute(data, recipe, tmp_path / "elsewhere")
    assert checks_folder(data) == str(tmp_path / "data" / "checks" / "1.0.0")
    checked, again, parts = _compute(data, recipe, pathlib.Path(checks_folder(data)), most=9)
    assert len(checked) == 16  # whole batches
    np.testing.assert_array_equal(checked, whole[:16])
    np.testing.assert_array_equal(again, labels[:16])
    found, again, rest = _compute(data, recipe, tmp_path / "run")
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(again, labels)
    assert min(int(part.stem.rpartition("-")[2]) for part in rest) == 16
    assert all(part.exists() for part in parts)


def test_sigterm_ends_it_at_once_and_leaves_no_half(tiny_data, tmp_path, every_call):
    with listening(on_cloud=False) as wishes, pytest.raises(TryAgainError, match="run the same command again"):
        train(
            tiny_data, small_recipe(), tmp_path, at_once=wishes.at_once,
            check_owner=lambda: os.kill(os.getpid(), signal.SIGTERM),
        )  # fmt: skip
    assert not list(tmp_path.glob("features/*"))


def test_a_full_disk_is_one_line_and_leaves_no_half(tiny_data, tmp_path, every_call):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            _compute(tiny_data, small_recipe(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = storage_error(caught.value)
    assert line.exit_code != ExitCode.DONE
    assert "make room and run the same command again" in str(line)
    assert list((tmp_path / "features").iterdir()) == []


@pytest.mark.slow
def test_two_replicas_keep_them_too(tiny_data, tmp_path, two_replicas, every_call):
    recipe = small_recipe("phases.1.duration=1ep")
    _, one, _ = train(tiny_data, recipe, tmp_path / "one", strategy=two_replicas)
    for parts in (2, 3):
        with pytest.raises(TryAgainError):
            train(tiny_data, recipe, tmp_path / "two", strategy=two_replicas, check_owner=_stopped_at(parts))
    _, two, _ = train(tiny_data, recipe, tmp_path / "two", strategy=two_replicas)
    found = weights(two)
    for path, value in weights(one).items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
