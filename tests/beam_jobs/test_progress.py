"""Tests that a build tells how far it has come: lines in a log, a bar on a terminal."""

import os
import pathlib
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

from beam_jobs import inspect, progress
from beam_jobs.sources.folder import FolderSource
from tests.beam_jobs.image_folders import make_folder, run_build

_SLOWLY = """
import pathlib, sys, time
from beam_jobs import inspect, progress
from beam_jobs.sources.folder import FolderSource
from tests.beam_jobs.image_folders import run_build
inspect.TOGETHER, inspect._FINDINGS, progress._POLL_SECONDS = 8, 8, 0.05
read = FolderSource.read
FolderSource.read = lambda self, item: (time.sleep(0.02), read(self, item))[1]
run_build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    make_folder(tmp_path / "in", images=40)
    return tmp_path / "in"


@pytest.mark.slow
def test_a_log_gets_a_line_now_and_then(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inspect, "TOGETHER", 8)
    monkeypatch.setattr(inspect, "_FINDINGS", 8)
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr("pipeline.progress._SECONDS_BETWEEN_LINES", 0.1)
    read = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, item: (time.sleep(0.02), read(self, item))[1])
    run_build(folder, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    pattern = (
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (inspecting|writing): (\d+) of at most 80 images, [\d.]+/s, 10 s left at most"
    )
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    counts = [int(match[2]) for match in found if match[1] == "inspecting"]
    assert len(counts) >= 3
    assert counts == sorted(counts)
    assert counts[-1] <= 80


def test_a_short_build_says_nothing(folder, tmp_path, capsys):
    run_build(folder, tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(folder, tmp_path):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    command = [sys.executable, "-c", _SLOWLY, str(folder), str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    assert process.wait(timeout=60) == 0
    assert re.search(rb"inspecting: +\d+%\|.*\| \d+/80", seen), seen[-500:]


def test_damaged_reports_of_shards_count_for_nothing(tmp_path):
    counters = progress.Shards(str(tmp_path / "shards"))
    assert counters() == 0
    (tmp_path / "shards/1.0.0").mkdir(parents=True)
    (tmp_path / "shards/1.0.0/x.json").write_text("damaged")
    assert counters() == 0
