"""Tests that a run has one writer, the last that came: on disks and in stores, raced, with real training processes."""

import subprocess
import sys
import uuid

import pytest

from pipeline.command import TryAgainError
from pipeline.format import storage
from tests.trainer.test_main import ROOT, best_weights, command, run, training_flags
from trainer.train.owner import Ownership

RACER = """
import sys
from trainer.train.owner import Ownership
print("ready", flush=True)
sys.stdin.readline()
print(Ownership(sys.argv[1]).number, flush=True)
"""


@pytest.fixture(params=["local", "gcs", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue(request.param), uuid.uuid4().hex)


def test_the_last_that_came_owns_the_run(place):
    first = Ownership(place)
    first.check()
    second = Ownership(place)
    second.check()
    with pytest.raises(TryAgainError, match=r"another process has taken this run over \(host .*, process \d+\)"):
        first.check()
    third = Ownership(place)
    third.check()
    for earlier in (first, second):
        with pytest.raises(TryAgainError):
            earlier.check()
    assert len(storage.list_folder(storage.join(place, "owners"))) == 1


def test_of_several_at_once_all_get_numbers_of_their_own(place):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, place], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    numbers = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sorted(numbers) == [1, 2, 3, 4]


@pytest.mark.slow
def test_who_is_overtaken_ends_with_75_and_the_other_ends_the_run(tiny_data, tmp_path):
    settings = ["--set=phases.1.duration=60ep"]
    flags = training_flags(tiny_data, tmp_path / "run", *settings)
    with subprocess.Popen(command(*flags), cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if "all: epoch" in line:
                break
        second = run(*flags)
        errors = first.communicate(timeout=60)[1]
    assert second.returncode == 0, second.stderr
    assert first.returncode == 75
    assert "another process has taken this run over" in errors
    assert "Traceback" not in errors
    alone = run(*training_flags(tiny_data, tmp_path / "alone", *settings))
    assert alone.returncode == 0, alone.stderr
    for name, value in best_weights(tmp_path / "alone").items():
        assert (best_weights(tmp_path / "run")[name] == value).all(), name
    for name in ("metrics.jsonl", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
