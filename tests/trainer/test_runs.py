"""Tests the list of runs: what is said of finished, unfinished and running ones."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys

import html5lib
import pytest

from pipeline.format.owner import owned
from tests.trainer.commands import run
from trainer.report.run_list import find_runs, write_index

CONFIG = {"data": "/data", "dataset_version": "1.0.0", "recipe": {"name": "photos", "backbone": "efficientnet_lite0"}}
TIMES = {"started": "2026-01-02T10:00:00+00:00", "finished": "2026-01-02T11:30:00+00:00"}


def _run(folder, *, config=CONFIG, result=None, finished=False):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "provenance.json").write_text(json.dumps(TIMES))
        (folder / "report.html").touch()
    if finished:
        (folder / "_SUCCESS").touch()


@pytest.fixture
def runs(tmp_path):
    test = {"accuracy": 0.9, "examples": 200}
    _run(tmp_path / "a b" / "good #1", result={"dataset": "flowers", "splits": {"test": test}}, finished=True)
    _run(tmp_path / "begun")
    _run(tmp_path / "cut off")
    (tmp_path / "cut off" / "checkpoints").mkdir()
    (tmp_path / "not a run").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    return tmp_path


def test_runs_are_listed_and_linked(runs):
    done = run(runs, module="trainer.runs")
    assert done.returncode == 0, done.stderr
    head, *rows, page, _ = done.stdout.splitlines()
    assert head.split() == ["run", "state", "recipe", "data", "accuracy", "interval", "time"]
    assert rows[0].split("  ")[0] == "a b/good #1"
    assert "flowers 1.0.0" in rows[0]
    assert "0.9000    0.851 to 0.934 (test)  90 min" in rows[0]
    states = {row[:11].rstrip(): row[13:].split("  ")[0] for row in rows}
    assert states == {"a b/good #1": "finished", "begun": "begun", "cut off": "unfinished", "damaged": "begun"}
    assert page == f"page: {runs}/index.html"
    text = (runs / "index.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    assert '<a href="./a%20b/good%20%231/report.html">' in text


def test_a_page_that_is_no_list_of_runs_is_left_alone(runs):
    assert run(runs, module="trainer.runs").returncode == 0
    page = runs / "index.html"
    assert run(runs, module="trainer.runs").stdout.splitlines()[-2] == f"page: {page}"  # its own is written anew
    page.write_text("<title>Roses and tulips</title>")
    done = run(runs, module="trainer.runs")
    assert "good #1" in done.stdout
    assert f"page: not written, for another index.html lies in {runs}" in done.stdout
    assert page.read_text() == "<title>Roses and tulips</title>"


def test_several_may_list_the_runs_at_once(runs):
    found = find_runs(runs, lambda run: "begun")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: write_index(runs, found), range(40))) == {str(runs / "index.html")}
    assert [path.name for path in runs.iterdir() if path.is_file()] == ["index.html"]


def test_of_a_quickstart_its_runs_are_listed(tmp_path):
    made = tmp_path / "photos-model"
    _run(made / "runs" / "1.0.0" / "photos-head")
    for name in ("quickstart.json", "index.html"):
        (made / name).write_text("{}")
    done = run(made, module="trainer.runs")
    assert "1.0.0/photos-head  begun" in done.stdout
    assert f"page: {made}/runs/index.html" in done.stdout
    assert (made / "index.html").read_text() == "{}"


def test_a_run_says_who_trains_it_until_that_one_is_gone(runs):
    with owned(str(runs / "begun")):
        assert f"trained by process {os.getpid()} on " in run(runs, module="trainer.runs").stdout
    assert "trained by" not in run(runs, module="trainer.runs").stdout
    code = (
        "import time; from pipeline.format.owner import owned\n"
        f"with owned({str(runs / 'cut off')!r}): print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert f"trained by process {process.pid} on " in run(runs, module="trainer.runs").stdout
        process.send_signal(signal.SIGKILL)
    assert "trained by" not in run(runs, module="trainer.runs").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["/nowhere"], 64, "error: /nowhere: no such folder"),
        (["a", "b"], 64, 'error: unexpected argument "b"'),
        (["setup.py"], 64, "error: setup.py: a file, not a folder"),
    ],
)
def test_what_is_no_folder_is_one_line(arguments, code, message):
    done = run(*arguments, module="trainer.runs")
    assert (done.returncode, done.stderr.startswith(message)) == (code, True), done.stderr


def test_no_runs_are_no_failure(tmp_path):
    done = run(tmp_path, module="trainer.runs")
    assert (done.returncode, done.stdout) == (0, f"no run in {tmp_path}, nor two folders deep below it\n")
    assert not pathlib.Path(tmp_path, "index.html").exists()
