"""Tries situations from public bug reports as a user meets them; what is right stands in the README beside them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import datasets
from tests.trainer.report.test_page import make_run
from tests.trainer.runs import SMALL
from trainer.report.diagnosis import diagnose
from trainer.report.page import write_report

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def cases(shared_data):
    folder = shared_data / "field_cases" / "training"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def command(data, workdir, *settings):
    flags = [f"--data={data.path}", "--recipe=quick", f"--workdir={workdir}"]
    return [sys.executable, "-m", "trainer.main", *flags, *(f"--set={setting}" for setting in settings)]


def run(*arguments):
    done = subprocess.run([*map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_majority_only_result(cases):
    result = json.loads((cases / "majority_only_result" / "result.json").read_text())
    validation = result["splits"]["validation"]
    kept = result["best"]
    text = diagnose([], kept=kept, confusion=np.array(validation["confusion"]), labels=result["labels"])
    assert "never found: rose (0 of 3)" in text
    assert "accuracy 0.962 on 78 images equals always guessing other" in text
    assert "class_weights=balanced" in text
    assert "under-fitting" not in text


def test_japanese_labels_in_the_report(cases, tmp_path):
    labels = (cases / "japanese_labels" / "labels.txt").read_text(encoding="utf-8").splitlines()
    made = make_run(tmp_path, labels)
    write_report(made.path, made.data)
    page = (made.path / "report.html").read_text(encoding="utf-8")
    for label in labels:
        assert f">{label}<title>{label}</title></text>" in page


@pytest.mark.slow
def test_japanese_labels_on_the_contact_sheet(cases, tmp_path):
    """Either a font of this machine has the characters, or a line says which number stands for which label."""
    labels = (cases / "japanese_labels" / "labels.txt").read_text(encoding="utf-8").splitlines()
    data = datasets.write_dataset(tmp_path / "data", {"train": datasets.random_records(10, classes=5)}, labels)
    out = tmp_path / "sheet.png"
    flags = [f"--data={data.path}", "--recipe=cifar10_cnn", f"--out={out}", "--epochs=1"]
    done = run(sys.executable, "-m", "pipeline.preview", *flags)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 1000
    if "no installed font has the characters" in done.stderr:
        assert f"(1) {labels[0]}" in done.stderr


@pytest.mark.slow
def test_patience_selection_last(tiny_data, tmp_path):
    run_dir = tmp_path / "run"
    settings = ("phases.1.patience=1", "phases.1.lr_max=0.00001", "phases.1.lr_min=0", "phases.1.duration=9ep")
    done = run(*command(tiny_data, run_dir, *SMALL, *settings))
    assert done.returncode == 0, done.stderr
    assert rows(run_dir)[-1]["epoch"] < 11  # it stopped early
    assert (run_dir / "export" / "saved_model" / "saved_model.pb").exists()


@pytest.mark.slow
def test_zero_epochs_phase(tiny_data, tmp_path):
    assert run(*command(tiny_data, tmp_path / "none", *SMALL, "phases.1.duration=0ep")).returncode == 0
    assert {row["phase"] for row in rows(tmp_path / "none")} == {"head"}
    assert run(*command(tiny_data, tmp_path / "one", *SMALL, "phases.1.duration=1st")).returncode == 0
    (last,) = (row for row in rows(tmp_path / "one") if row["phase"] == "all" and row["split"] == "train")
    assert last["learning_rate"] == pytest.approx(0.001)


@pytest.mark.slow
def test_tensorboard_after_kill(tiny_data, tmp_path):
    workdir = tmp_path / "run"
    whole = command(tiny_data, workdir, *SMALL, "phases.1.duration=6ep")
    process = subprocess.Popen(whole, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " all 3/" in line:  # no checkpoint has seen it: they are a minute apart
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    done = run(*whole)
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(workdir / "events"))
    events.Reload()
    expected = [row["step"] for row in rows(workdir) if row["split"] == "train"]
    assert [event.step for event in events.Tensors("loss/train")] == expected == [5 * e for e in range(1, 9)]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_disk_full(tiny_data, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", small]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        whole = command(tiny_data, small / "run", *SMALL)
        # As much as the check before the first step asks for; another process then takes it.
        process = subprocess.Popen(whole, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not (small / "run" / "config.json").exists() and process.poll() is None:
            time.sleep(0.01)
        with open(small / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass
        _, errors = process.communicate()
        assert process.returncode == 75, errors
        assert "Traceback" not in errors
        assert str(small) in errors.strip().splitlines()[-1]
        assert not [*(small / "run").rglob("*_temp*")]
        (small / "filler").unlink()
        done = run(*whole)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", small], check=True)
