"""Tests that training from Python is what the command does, and that the process goes on as it was."""

import json
import subprocess
import sys

import pytest

from tests.trainer.commands import ROOT, assert_same_end, run, training_flags


@pytest.fixture(scope="module")
def session(tiny_data, tmp_path_factory):
    """Runs `session.py`; returns what it found, the run's folder, and what was shown."""
    base = tmp_path_factory.mktemp("session")
    flags = [flag.removeprefix("--set=") for flag in training_flags(tiny_data, "") if flag.startswith("--set=")]
    settings = {name: _value(text) for name, text in (flag.split("=") for flag in flags)}
    (base / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "tests.trainer.api.session", str(tiny_data.path), str(base / "run"),
               str(base / "settings.json")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), base / "run", done


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_interrupted_and_called_again_it_ends_as_the_command_does(session, finished):
    found, folder, _ = session
    assert found["interrupted"].startswith("stopped"), found["interrupted"]
    assert found["rows"] < len((finished[0] / "metrics.jsonl").read_text().splitlines())
    assert_same_end(folder, finished[0])
    assert found["accuracy"] == json.loads((finished[0] / "result.json").read_text())["splits"]["test"]["accuracy"]
    assert found["path"] == str(folder)


def test_keras_signals_and_logs_are_as_they_were(session):
    assert session[0]["restored"] == [True, True]


def test_tensorflow_s_own_lines_are_not_shown(session):
    lines = session[2].stderr.splitlines()
    assert lines
    assert all(line.startswith("20") for line in lines), lines  # a date: the trainer's


def test_nothing_of_a_run_stays_in_memory(session):
    assert session[0]["alive"] == []


def test_importing_it_and_a_typo_need_no_tensorflow(session):
    assert session[0]["imported"] == []


def test_errors_have_the_text_of_the_command_s(session, tiny_data):
    found, folder, _ = session
    for text, flags in (
        (found["typo"], [f"--data={tiny_data.path}", "--recipe=quik", f"--workdir={folder}"]),
        (found["another"], training_flags(tiny_data, folder, "--set=phases.1.lr_max=0.002")),
    ):
        done = run(*flags)
        assert done.returncode == 64
        assert f"error: {text}\n" == done.stderr


def test_a_finished_run_is_left_alone(session):
    assert session[0]["again"]
    assert "nothing to do" in session[2].stdout


def test_epochs_are_shown_while_it_trains(session):
    shown = session[2].stderr.splitlines()
    for epoch in ("head 1/2", "head 2/2", "all 1/2", "all 2/2"):
        assert sum(f" {epoch} loss " in line for line in shown) == 1, session[2].stderr
    assert "retracing" not in session[2].stderr


def test_a_cell_shows_the_first_screen_in_a_frame(session):
    page = (session[1] / "report.html").read_text()
    cell = session[0]["html"]
    assert cell.startswith("<iframe srcdoc=")
    assert "right (" in cell  # the headline
    assert len(cell) < 30_000 < len(page)
    assert "Worst mistakes" in page
    assert "Worst mistakes" not in cell
