"""Tries what fuzzing found once, and so many inputs of each kind that a fixed seed makes: `make fuzz` tries more."""

from __future__ import annotations

import contextlib
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.images.heap import limited_memory
from tests.fuzz import seeds
from tests.fuzz.__main__ import MEMORY, REGRESSIONS, ROOT
from tests.fuzz.mutation import mutate
from tests.fuzz.shapes import ENTRIES, FRAMES, PLAIN, TAR, image_shape
from tests.fuzz.targets import ENDS_THE_PROCESS, KNOWN_FAULTS, TARGETS

_SECONDS = 20  # far more than any of these inputs takes; as the budget of an image


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Bounds an input's time and memory."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        with limited_memory(MEMORY):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def regressions() -> Iterator[object]:
    for file in sorted(REGRESSIONS.glob("*/*")):
        name = f"{file.parent.name}/{file.name}"
        if name not in ENDS_THE_PROCESS:
            marks = [pytest.mark.xfail(strict=True, reason=KNOWN_FAULTS[name])] if name in KNOWN_FAULTS else []
            yield pytest.param(file, id=name, marks=marks)


@pytest.mark.parametrize("file", list(regressions()))
def test_what_was_found_once_stays_mended(file: pathlib.Path):
    target = TARGETS[file.parent.name]
    target.start()
    with bounded():
        target.check(file.read_bytes())


def try_mutations(name: str) -> None:
    """Tries a target's sound inputs, and then what becomes of them, always the same."""
    target = TARGETS[name]
    target.start()
    sound, rng = target.seeds(), random.Random(15)
    for number in range(target.tests):
        data = sound[number % len(sound)]
        if number >= len(sound):
            data = mutate(data, rng, target.shape(data), sound, max_bytes=target.max_bytes)
        try:
            with bounded():
                target.check(data)
        except Exception as error:
            error.add_note(f"input {number} of the target {name}: {data!r}")
            raise


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"parquet"}))
def test_only_documented_errors_come_out(name: str):
    try_mutations(name)


def test_only_documented_errors_come_out_of_parquet():
    # The library, of another version than ours perhaps, may end the process; what reads tables foresees that.
    code = "from tests.fuzz.test_fuzz import try_mutations; try_mutations('parquet')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGABRT, -signal.SIGSEGV), done.stderr


def test_known_faults_are_in_the_corpus():
    assert {*KNOWN_FAULTS, *ENDS_THE_PROCESS} <= {f"{file.parent.name}/{file.name}" for file in REGRESSIONS.glob("*/*")}


@pytest.mark.parametrize("name", TARGETS)
def test_parts_joined_are_the_file(name: str):
    target = TARGETS[name]
    for data in target.seeds():
        assert b"".join(target.shape(data).parts(data)) == data or name == "part"


def test_lengths_and_checksums_are_made_right():
    for data in seeds.images():
        shape = image_shape(data)
        if shape is not PLAIN:
            assert shape.join(shape.parts(data)) == data
    for shape, sound in ((FRAMES, seeds.frames()[:3]), (TAR, seeds.archives()), (ENTRIES, seeds.parts())):
        for data in sound:
            assert shape.join(shape.parts(data)) == data
