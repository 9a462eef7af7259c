"""Tests that a run has one writer: on disks and in stores, raced, killed, asleep, with real processes."""

import contextlib
import re
import signal
import subprocess
import sys
import uuid

import pytest

from pipeline.command import TryAgainError
from pipeline.format import storage
from pipeline.format.owner import owned
from tests.trainer.commands import ROOT

# Owns a run until told to end; one that is "elsewhere" looks like a process of another machine.
OWNER = """
import sys
from pipeline.command import TryAgainError
from pipeline.format import owner
run, where = sys.argv[1:]
if where == "elsewhere":
    owner._machine = lambda: where
print("ready", flush=True)
sys.stdin.readline()
try:
    with owner.owned(run, renewed=0.1) as ownership:
        print(f"owns as {ownership.number}", flush=True)
        sys.stdin.readline()
        ownership.check()
        print("owns still", flush=True)
except TryAgainError as error:
    print(error, flush=True)
"""
SILENT = 3.0


@pytest.fixture(params=["local", "gcs", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue(request.param), uuid.uuid4().hex)


def _ready(place, where="here"):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, place, where], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def _say_go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


@contextlib.contextmanager
def owner(place, where="here"):
    with _ready(place, where) as process:
        _say_go(process)
        assert process.stdout.readline().startswith("owns as ")
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_run_whose_owner_lives_is_left_to_it(place, where):
    storage.write_atomically(storage.join(place, "config.json"), "{}")
    with owner(place, where) as first:
        who = rf"process {first.pid} on \S+ \(since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\) trains this run already"
        with pytest.raises(TryAgainError, match=rf"^{re.escape(place)}: {who}"), owned(place):
            pass
        _say_go(first)
        assert first.stdout.readline() == "owns still\n"
        first.wait()
    # It has given the run back: nobody waits.
    with owned(place, silent=1e6) as ownership:
        assert ownership.number == 2
    assert len(storage.list_folder(storage.join(place, "owners"))) == 1


def test_nothing_stays_of_a_run_of_which_nothing_came(place):
    run = storage.join(place, "run")
    with owned(run):
        pass
    assert not storage.exists(run)
    with owned(run):
        storage.write_atomically(storage.join(run, "config.json"), "{}")
    assert sorted(entry.name for entry in storage.list_folder(run)) == ["config.json", "owners"]


def test_a_run_whose_owner_was_killed_here_is_taken_at_once(tmp_path):
    with owner(str(tmp_path)) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with owned(tmp_path, silent=1e6) as ownership:
        assert ownership.number == 2


def test_a_run_whose_owner_is_silent_elsewhere_is_taken_and_it_ends_when_it_wakes(place):
    with owner(place, "elsewhere") as first:
        first.send_signal(signal.SIGSTOP)
        with owned(place, silent=SILENT) as ownership:
            first.send_signal(signal.SIGCONT)
            _say_go(first)
            assert "has taken it over and goes on with it; this one ends" in first.stdout.readline()
            ownership.check()
    # What the sleeper has still written does not make it the owner again.
    with owned(place, silent=1e6) as ownership:
        assert ownership.number == 3


def test_of_several_at_once_one_owns_the_run(place):
    racers = [_ready(place) for _ in range(4)]
    for racer in racers:
        _say_go(racer)
    answers = [racer.stdout.readline() for racer in racers]
    for racer in racers:
        racer.communicate("go\n", timeout=60)
    assert sum(answer.startswith("owns as ") for answer in answers) == 1, answers
    assert sum("trains this run already" in answer for answer in answers) == 3, answers
