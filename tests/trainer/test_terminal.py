"""A run as a person sees it: on a terminal short lines and nothing of TensorFlow's, in a file lines with a date."""

import re

import pytest

from tests.terminals import on_terminal
from tests.trainer.commands import ROOT, command, run, training_flags

# Lines that TensorFlow, absl, XNNPACK and LiteRT write: a level with a date or a time, or a warning of absl's.
NATIVE = re.compile(r"^([IWEF]\d{4} |WARNING: All log|INFO: Created|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d)", re.MULTILINE)
EPOCH = r"(head|all) [12]/2 loss \d\.\d{3} acc [01]\.\d{3} val [01]\.\d{3}( best)?, \d+ (s|min) left"


@pytest.fixture(scope="module")
def seen(tiny_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("terminal") / "run"
    return workdir, on_terminal(command(*training_flags(tiny_data, workdir)), cwd=ROOT)


def test_a_run_tells_its_epochs_in_short_lines_and_what_comes_next(seen):
    workdir, found = seen
    assert found.code == 0, found.raw
    lines = [line for line in found.screen if line]
    epochs = [line for line in lines if re.fullmatch(rf"\d\d:\d\d {EPOCH}", line)]
    assert len(epochs) == 4, found.raw
    assert all(len(line) < 80 for line in epochs)
    assert lines[-1] == f"next, ask it: python -m trainer.predict --run={workdir} PHOTO.jpg"


def test_nothing_of_tensorflow_s_is_seen_and_no_bar_is_left(seen):
    _, found = seen
    assert not NATIVE.search(found.raw)
    assert not [line for line in found.screen if "|" in line]


def test_what_takes_long_is_said_while_it_does(seen):
    _, found = seen
    for text in ("features of train: compiling", "head: compiling", "all: compiling", "evaluating and exporting"):
        assert text in found.raw
    assert re.search(r"all 2/2 \|.*\| \d+/10, loss", found.raw)
    assert re.search(r"all 2/2: validating \d+/\d+", found.raw)
    for split in ("validation", "test"):
        assert f"evaluating {split}: compiling" in found.raw
        assert re.search(rf"evaluating {split} \|.*\| \d+/\d+", found.raw)


@pytest.mark.slow
def test_no_command_shows_what_is_tensorflow_s(seen, tiny_data, tmp_path):
    workdir, _ = seen
    data, photo = str(tiny_data.path), str(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes(next(iter(tiny_data.read("test"))).image)
    commands = [
        ("pipeline.verify", data),
        ("trainer.check", data, f"--output={tmp_path}/check"),
        ("trainer.evaluate", str(workdir), "--tta"),
        ("trainer.export", str(workdir), f"--output={tmp_path}/export"),
        ("trainer.fit_check", data, "--recipe=cifar10_cnn", "--epochs=1", "--rates=1e-3", "--sample=8"),
        ("trainer.predict", f"--run={workdir}", photo),
        ("trainer.preview", data, "--recipe=photos", f"--output={tmp_path}/preview.png"),
        ("trainer.verify", str(workdir / "export")),
        ("trainer.report", str(workdir)),
    ]
    for module, *flags in commands:
        found = on_terminal(command(*flags, module=module), cwd=ROOT)
        assert found.code == 0, found.raw
        assert not NATIVE.search(found.raw), module
        assert [line for line in found.screen if line][-1].startswith("next, "), module


@pytest.mark.slow
def test_asking_about_many_images_shows_a_bar(seen, tiny_data, tmp_path):
    export, data = str(seen[0] / "export"), str(tiny_data.path)
    photo = next(iter(tiny_data.read("test"))).image
    (tmp_path / "photos").mkdir()
    for number in range(40):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(photo)
    for module, *flags in (
        ("trainer.evaluate", str(seen[0]), "--tta", "--split=train"),
        ("trainer.evaluate", f"--model={export}", f"--data={data}", "--split=train", f"--output={tmp_path}/out.npz"),
        ("trainer.predict", f"--model={export}", str(tmp_path / "photos"), f"--output={tmp_path}/out.csv"),
    ):
        found = on_terminal(command(*flags, module=module), cwd=ROOT)
        assert found.code == 0, found.raw
        assert re.search(r"(asking about train|predicting): +\d+%\|.*\| \d+/(37|40) ", found.raw), found.raw
        assert not [line for line in found.screen if "%|" in line]


@pytest.mark.slow
def test_verbosity_shows_what_tensorflow_says(tiny_data, tmp_path):
    done = run(*training_flags(tiny_data, tmp_path / "run"), "--verbosity=1")
    assert done.returncode == 0
    assert NATIVE.search(done.stderr)
