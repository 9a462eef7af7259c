"""Tests the demo's images and faults in the real builder; the whole demo only among the slow tests."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from examples.demo import REQUIRED_ACCURACY, write_digits
from pipeline.predictions import read_predictions


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "digits"
    write_digits(folder)
    return folder


def run(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_every_digit_becomes_an_image_of_its_class(digits):
    data = load_digits()
    found = {}
    for path in digits.rglob("[0-9][0-9][0-9][0-9].*"):
        found[int(path.stem)] = path
    assert sorted(found) == list(range(1797))
    assert {path.suffix for path in found.values()} == {".jpg", ".png"}
    for number in (0, 1, 1000, 1796):
        with Image.open(found[number]) as image:
            assert image.size == (64, 64)
            small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), np.float64)
        assert found[number].parent.name == str(data.target[number])
        # Enlarged and shrunk again it is the digit that it was: one grey level of 16, JPEG included, on average.
        assert np.abs(small * 16 / 255 - data.images[number]).mean() < 1


def test_nothing_is_written_twice(digits):
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    write_digits(digits)
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before


def test_an_interrupted_start_is_begun_again(tmp_path):
    (tmp_path / ".digits.partial" / "0").mkdir(parents=True)
    (tmp_path / ".digits.partial" / "0" / "stray.png").write_bytes(b"")
    write_digits(tmp_path / "digits")
    assert not list((tmp_path / "digits").rglob("stray.png"))
    assert not (tmp_path / ".digits.partial").exists()


def test_the_builder_finds_exactly_the_planted_faults(digits, tmp_path):
    result = run("beam_jobs.build_tfrecords", f"--input={digits}", f"--output={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    version = tmp_path / "data" / "versions" / (tmp_path / "data" / "CURRENT").read_text().strip()
    rejects = [json.loads(line) for line in (version / "rejects.jsonl").read_text().splitlines()]
    assert sorted((row["code"], row["label"]) for row in rejects) == [
        ("duplicate", "7"),
        ("label_conflict", "4"),
        ("label_conflict", "9"),
        ("not_an_image", "5"),
        ("truncated", "3"),
    ]


@pytest.mark.slow
def test_the_whole_demo_and_again(tmp_path):
    first = run("examples.demo", f"--output={tmp_path}")
    assert first.returncode == 0, first.stdout + first.stderr
    made = tmp_path / "digits-model"
    answers = read_predictions((made / "model").resolve().parent, "test")
    assert answers.correct.mean() >= REQUIRED_ACCURACY
    for promised in (
        "label_conflict",
        "report.html",
        "better than the head beyond chance",
        "trainer.quickstart PHOTOS",
    ):
        assert promised in first.stdout
    before = {path: path.stat().st_mtime_ns for path in (made / "runs").rglob("*") if path.is_file()}
    started = time.monotonic()
    second = run("examples.demo", f"--output={tmp_path}")
    assert second.returncode == 0
    assert time.monotonic() - started < 30
    assert {path: path.stat().st_mtime_ns for path in before} == before
