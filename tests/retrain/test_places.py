"""Tests that a pass refuses folders that hold something else than it takes them for."""

import pathlib
import subprocess
import sys

import pytest

from pipeline.command import UsageError
from retrain.config import load_config
from retrain.index import write_index
from retrain.ledger import append_decision
from retrain.places import check_places

GATE = "gate: {margin: 0.02, alpha: 0.05, minimum_accuracy: 0.8}\n"


def configured(folder, **places):
    given = {"input": "photos", "data": "data", "runs": "runs", "models": "models", "recipe": "photos"} | places
    (folder / "retrain.yaml").write_text("".join(f"{key}: {value}\n" for key, value in given.items()) + GATE)
    return load_config(str(folder / "retrain.yaml"))


def make(path: pathlib.Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_what_passes_have_made_and_what_is_not_there_yet_is_right(tmp_path):
    check_places(configured(tmp_path))
    make(tmp_path / "data" / "CURRENT")
    make(tmp_path / "runs" / "one" / "config.json")
    (tmp_path / "models").mkdir()
    write_index(str(tmp_path / "models"))
    check_places(configured(tmp_path))  # a pass that was held leaves a page, and no model
    decision = {"time": "2026-01-02T03:04:05+00:00", "decision": "held", "reasons": ["x"], "who": "me", "dataset": "1"}
    append_decision(str(tmp_path / "models"), decision)
    check_places(configured(tmp_path))


@pytest.mark.parametrize(
    ("made", "key", "says"),
    [
        ("photos/roses/1.jpg", "data", "it is a folder of images"),
        ("photos/roses/1.jpg", "models", "it is a folder of images"),
        ("photos/quickstart.json", "models", "it is what a quickstart has made"),
        ("photos/CURRENT", "runs", "it is a dataset"),
        ("photos/decisions.jsonl", "runs", "it is a registry of models"),
        ("photos/decisions.jsonl", "data", "it is a registry of models"),
        ("photos/index.html", "models", "index.html lies there, which would be lost"),
    ],
)
def test_what_holds_something_else_is_named(tmp_path, made, key, says):
    make(tmp_path / made)
    with pytest.raises(UsageError, match=f"^{key}: {tmp_path}/photos: {says}; name "):
        check_places(configured(tmp_path, **{key: "photos"}))


@pytest.mark.parametrize("command", ["list", "prune"])
def test_models_are_looked_for_in_a_registry_only(tmp_path, command):
    make(tmp_path / "photos" / "index.html")
    done = subprocess.run(
        [sys.executable, "-m", "retrain.models", command, f"--models={tmp_path}/photos"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert done.stderr.startswith(f"error: {tmp_path}/photos: index.html lies there, which would be lost; name ")
    assert (tmp_path / "photos" / "index.html").read_text() == ""


def test_each_has_a_folder_of_its_own(tmp_path):
    with pytest.raises(UsageError, match=f"^models: {tmp_path}/runs: runs is that folder already; name another"):
        check_places(configured(tmp_path, models="runs/"))
