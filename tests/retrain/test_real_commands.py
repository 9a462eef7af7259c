"""Tests passes with the real builder, trainer and evaluator on real photos."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from pipeline.predictions import from_bytes

CONFIG = """
input: photos
data: data
runs: runs
models: models
recipe: quick
settings: {phases.0.duration: 10ep, phases.1.duration: 1ep, phases.1.lr_max: 1.0e-4}
build: {splits: "train:0.5,validation:0.1,test:0.4"}
gate: {margin: 0.2, minimum_accuracy: 0.6}
"""


def run_pass(folder, **environment):
    return subprocess.run(
        [sys.executable, "-m", "retrain.main", f"--config={folder / 'retrain.yaml'}"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
    )


def add_photos(source, folder, start, stop):
    for label in ("roses", "sunflowers"):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        for photo in sorted((source / "flowers" / label).iterdir())[start:stop]:
            shutil.copy(photo, folder / "photos" / label)


def test_bad_input_ends_as_the_builder_ends(tmp_path):
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    result = run_pass(tmp_path)
    assert result.returncode == 64
    assert "photos" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "models" / "champion").exists()


def test_a_configuration_is_asked_for(tmp_path):
    result = subprocess.run([sys.executable, "-m", "retrain.main"], check=False, capture_output=True, text=True)
    assert result.returncode == 64
    assert result.stderr.strip() == "error: --config=FILE.yaml is missing; examples/retrain.yaml shows one"


def answers_in(file):
    return list(from_bytes(file.read_bytes(), file=str(file), again="it").ids)


@pytest.mark.slow
def test_first_model_then_nothing_new_then_more_photos(tmp_path, shared_data):
    (tmp_path / "retrain.yaml").write_text(CONFIG)
    add_photos(shared_data, tmp_path, 0, 80)
    first = run_pass(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    champion = tmp_path / "models" / "champion"
    assert os.readlink(champion) == "1"
    assert (champion / "saved_model" / "saved_model.pb").exists()
    assert (champion / "labels.txt").read_text().split() == ["roses", "sunflowers"]

    seen = set((champion / "trained_on.txt").read_text().split())
    tested = set(answers_in(next((tmp_path / "runs").glob("*/gate-challenger.npz"))))
    assert len(seen) + len(tested) == 160
    assert not seen & tested

    # Neither the pass nor the commands that it calls import TensorFlow to find that nothing changed.
    second = run_pass(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert second.returncode == 99, second.stdout + second.stderr
    assert "nothing changed since" in second.stdout
    assert re.search(r"\| +pipeline\.format\.manifest$", second.stderr, re.MULTILINE)
    assert not re.search(r"\| +tensorflow$", second.stderr, re.MULTILINE)

    # More photos: both models are scored on the new test split, but for what the champion was trained on.
    old = json.loads(next((tmp_path / "runs").glob("*/config.json")).read_text())["dataset_version"]
    add_photos(shared_data, tmp_path, 80, 120)
    third = run_pass(tmp_path)
    assert third.returncode in (0, 99), third.stdout + third.stderr
    assert "% interval [" in third.stdout
    decisions = [json.loads(line) for line in (tmp_path / "models" / "decisions.jsonl").read_text().splitlines()]
    assert [d["champion_before"] for d in decisions] == [None, 1]
    assert decisions[1]["figures"]["test_images"] > decisions[0]["figures"]["test_images"]
    new_run = tmp_path / "runs" / os.path.basename(decisions[1]["run"])
    assert json.loads((new_run / "config.json").read_text())["dataset_version"] != old
    scored = [answers_in(new_run / f"gate-{who}.npz") for who in ("challenger", "model-1")]
    assert scored[0] == scored[1]
    assert decisions[1]["figures"]["pairs"] == len(set(scored[0]) - seen)
