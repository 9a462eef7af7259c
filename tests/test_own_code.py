"""Tests examples/own_code.py as a user runs it: trained, resumed, refused when changed, exported when gone."""

import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import TryAgainError
from tests import datasets
from tests.trainer.runs import small_recipe, train, weights
from trainer.serving.litert import open_litert

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHORT = ("--set=phases.0.duration=1ep", "--set=image_size=16", "--set=batch_size=8")


def run(module, *flags, cwd):
    command = [sys.executable, "-m", module, *map(str, flags)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    counts = {"train": 37, "validation": 11, "test": 13}
    splits = {name: datasets.coloured_records(n, classes=3, seed=i) for i, (name, n) in enumerate(counts.items())}
    return datasets.write_dataset(tmp_path_factory.mktemp("own") / "data", splits, ["red", "green", "blue"])


@pytest.fixture(scope="module")
def here(data, tmp_path_factory):
    """A folder with the example in it, and a finished run."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copy(ROOT / "examples" / "own_code.py", folder / "mine.py")
    done = run("trainer.main", f"--data={data.path}", "--workdir=run", "--recipe=./mine.py", *SHORT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_example_trains_and_its_source_lies_in_the_run(here):
    assert json.loads((here / "run" / "result.json").read_text())["backbone"] == f"{here}/mine.py:small_cnn"
    config = json.loads((here / "run" / "config.json").read_text())
    assert sorted(config["own_code"]) == ["backbone", "policy", "recipe"]
    for role in config["own_code"]:
        assert (here / "run" / "own_code" / f"{role}.py").read_text() == (here / "mine.py").read_text()


def test_the_exports_answer_alike(here):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    model = tf.keras.models.load_model(here / "run" / "export" / "model.keras")
    expected = model(pixels, training=False).numpy()
    found = open_litert(str(here / "run" / "export" / "model.tflite"))(pixels)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_same_command_has_nothing_to_do_until_the_file_changes(here, data, tmp_path):
    folder = shutil.copytree(here, tmp_path / "copy")
    flags = [f"--data={data.path}", "--workdir=run", "--recipe=./mine.py", *SHORT]
    assert run("trainer.main", *flags, cwd=folder).stdout.startswith("nothing to do")
    with (folder / "mine.py").open("a") as file:
        file.write("# another\n")
    refused = run("trainer.main", *flags, cwd=folder)
    assert refused.returncode == 64
    assert refused.stderr.splitlines()[-1] == (
        f"error: {folder}/mine.py has changed since the run in run began with it; run/own_code/backbone.py is as it "
        "was: put that back, or take another --run"
    )


def test_a_run_is_exported_from_its_copy_when_the_file_is_gone(here, tmp_path):
    folder = shutil.copytree(here, tmp_path / "copy")
    (folder / "mine.py").write_text("raise SystemExit('not this one')\n")
    done = run("trainer.export", "--run=run", "--output=out", cwd=folder)
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    first, again = (
        open_litert(str(folder / export / "model.tflite"))(pixels)["probabilities"] for export in ("run/export", "out")
    )
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_the_preview_knows_the_recipe(here, data):
    done = run("pipeline.preview", f"--data={data.path}", "--recipe=mine.py", "--out=seen.png", cwd=here)
    assert done.returncode == 0, done.stderr
    assert (here / "seen.png").stat().st_size


def test_stopped_twice_and_resumed_it_ends_in_the_same_place(data, tmp_path):
    """With the example's backbone and policy in a recipe of two phases, dropout and a moving average."""
    own = ROOT / "examples" / "own_code.py"
    recipe = small_recipe(
        f"backbone={own}:small_cnn", f"augment.policy={own}:lights_out", "ema_decay=0.9", "head.dropout=0.3",
        "phases.1.batch_norm=train",
    )  # fmt: skip
    _, whole, _ = train(data, recipe, tmp_path / "whole")
    for calls in (2, 4):
        answers = itertools.chain([False] * (calls - 1), itertools.repeat(True))
        with pytest.raises(TryAgainError):
            train(data, recipe, tmp_path / "parts", stop_requested=answers.__next__)
    _, parts, _ = train(data, recipe, tmp_path / "parts")
    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
