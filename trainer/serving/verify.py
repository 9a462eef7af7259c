"""Checks an export as its users will meet it: each form is asked in a fresh process that cannot see this project."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.command import CommandError, DataError, UsageError
from trainer.serving.forms import FORMS, INT8_FILE, TOLERANCE
from trainer.serving.golden import ANSWERS, FOLDER
from trainer.serving.signature import Signature

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_CALLS, _WARM_UP = 40, 5
# Packages that are None cannot be imported.
_ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("pipeline", "beam_jobs", "trainer", "retrain")))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """Names an image file whose label is known.

    Attributes:
      file: the image.
      label: its name.
      id: of the dataset's image; "" of others.
      probabilities: that are expected; None where nothing is.
    """

    file: pathlib.Path
    label: str
    id: str = ""
    probabilities: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormCheck:
    """Holds what became of a form.

    Attributes:
      form: name of its file or folder.
      bytes: on disk.
      images: that it was asked about.
      difference: the largest of a probability from what is expected; None where it gave no answers.
      problem: what is wrong; "" where nothing is.
    """

    form: str
    bytes: int
    images: int
    difference: float | None
    problem: str


def golden_images(export: pathlib.Path) -> list[Known]:
    """Lists the golden images of an export.

    Raises:
      UsageError: it has none.
      DataError: their file is damaged.
    """
    folder = export / FOLDER
    file = folder / ANSWERS
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [
            Known(file=folder / row["file"], label=row["label"], id=row["id"], probabilities=row["probabilities"])
            for row in rows
        ]
    except FileNotFoundError as error:
        raise UsageError(
            f"{file}: no such file, so there is nothing to ask about; python -m trainer.export --run=RUN writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}); export the model again") from error


def labelled_images(folder: pathlib.Path) -> list[Known]:
    """Lists the images of a folder that holds one folder a label; UsageError where there is none."""
    found = [
        Known(file=file, label=file.parent.name)
        for file in sorted(folder.glob("*/*"))
        if file.suffix.lower() in _IMAGES
    ]
    if not found:
        raise UsageError(f"{folder}: no images there; it must hold one folder a label, like the photos to train on")
    return found


def check_forms(export: pathlib.Path, images: Sequence[Known]) -> Iterator[FormCheck]:
    """Asks each form of an export about images whose answers are known, in a process without this project."""
    expected = np.array([image.probabilities for image in images])
    files = [os.path.abspath(image.file) for image in images]
    forms = [form for form in FORMS.values() if (export / form).exists()]
    with concurrent.futures.ThreadPoolExecutor(len(forms)) as pool:
        yield from pool.map(lambda form: _check(export, form, files, expected), forms)


def _check(folder: pathlib.Path, form: str, files: Sequence[str], expected: np.ndarray) -> FormCheck:
    difference, problem = None, ""
    try:
        found = _answers(folder, form, files)
        difference = float(np.abs(found - expected).max())
        problem = problem_of(form, found, expected)
    except CommandError as error:
        problem = str(error)
    return FormCheck(form=form, bytes=size_of(folder / form), images=len(files), difference=difference, problem=problem)


def problem_of(form: str, found: np.ndarray, expected: np.ndarray) -> str:
    """Says what is wrong with a form's answers to golden images, "" where nothing is.

    Args:
      form: name of its file or folder.
      found: its probabilities, float [N, C].
      expected: the trained model's.
    """
    if form == INT8_FILE:  # an approximation, which was judged by its answers
        wrong = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        return f"gives {wrong} of {len(found)} golden images another label than the trained model" if wrong else ""
    difference = float(np.abs(found - expected).max())
    if difference <= TOLERANCE:  # nan is not
        return ""
    return f"differs from the trained model by {difference:.2g} in a probability, more than {TOLERANCE:g}"


def size_of(path: pathlib.Path) -> int:
    """Adds up the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _answers(folder: pathlib.Path, form: str, files: Sequence[str]) -> np.ndarray:
    """Returns what a form answers, float64 [N, C]; CommandError where it does not answer."""
    script = folder.resolve() / "ask.py"
    if not script.exists():
        raise CommandError(f"{script.name} is not beside it, so it was exported by an earlier version")
    command = [sys.executable, "-c", _ALONE, os.fspath(script), form, *files]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CommandError(f"cannot be asked by a program that has nothing of this project: {last}")
    return np.array([json.loads(line)["probabilities"] for line in done.stdout.splitlines()])


def ask(signature: Signature, images: Sequence[Known]) -> list[str]:
    """Returns the label that a model gives each image; "" where it cannot read it."""
    answers = []
    for image in images:
        try:
            answers.append(signature([image.file.read_bytes()])["label"][0].decode())
        except ValueError:
            answers.append("")
    return answers


def latencies(one: Signature, other: Signature, images: Sequence[Known]) -> tuple[float, float]:
    """Measures two models in turn, so that both meet the same load: median seconds from the bytes of an image on."""
    encoded = [image.file.read_bytes() for image in images]
    seconds: tuple[list[float], list[float]] = ([], [])
    for call in range(_WARM_UP + _CALLS):
        for signature, into in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            signature([encoded[call % len(encoded)]])
            into.append(time.perf_counter() - start)
    first, second = (statistics.median(of[_WARM_UP:]) for of in seconds)
    return first, second
