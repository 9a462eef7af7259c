"""Tests the answers that come with the package, and that a known answer needs neither TensorFlow nor a compiler."""

import dataclasses
import json
import subprocess
import sys

import keras
import pytest

from pipeline.command import ExitCode
from trainer.devices.tpus import parse_topology
from trainer.preflight.cache import SHIPPED, Cache, installed
from trainer.preflight.compiling import Compiled
from trainer.preflight.examine import examine
from trainer.preflight.findings import Report
from trainer.preflight.question import COMMON, Question

REMAKE = "python -m trainer.preflight.answers makes them anew; where programs are the same it compiles nothing"


def shipped():
    """Returns (key, value) of every file."""
    contents = [json.loads(file.read_text()) for file in sorted(SHIPPED.glob("*.json"))]
    return [(content["key"], content["value"]) for content in contents]


def answered():
    """Returns (recipe, slice) → key and report, of the answers that there are."""
    found = [(key, value) for key, value in shipped() if "recipe" in key]
    return {(key["recipe"], key["topology"]): (key, Report.from_dict(value)) for key, value in found}


class OnlyShipped:
    """Compiles nothing: knows what was shipped for a slice."""

    def __init__(self, topology, versions):
        self.versions = versions
        known = [(key, value) for key, value in shipped() if key["topology"] == topology and "program" in key]
        self._known = {key["program"]: Compiled.from_dict(value) for key, value in known}

    def compile(self, hlo, *, text_digest, batch):
        assert text_digest in self._known, f"the program is another one than that of the answer: {REMAKE}"
        return self._known[text_digest]


def test_an_answer_is_of_the_program_that_the_code_makes_today(xla):
    recipe, topology = COMMON[0]
    key, report = answered()[recipe, topology]
    if key["versions"] != installed():
        pytest.skip(f"the answers are of {key['versions']}, here is {installed()}")
    policy = keras.config.dtype_policy()
    *_, today = examine(
        Question(recipe=recipe, target=parse_topology(topology)), OnlyShipped(topology, report.versions)
    )
    keras.config.set_dtype_policy(policy)
    assert dataclasses.replace(today, feed=report.feed) == report


@pytest.mark.slow
def test_answers_are_about_common_questions_and_fit():
    found = answered()
    assert set(found) <= set(COMMON)
    for key, report in found.values():
        assert report.fits
        assert report.feed is not None
        assert key["flags"] == Question(recipe="", target=parse_topology("v5e:2x4")).key()["flags"]


@pytest.mark.slow  # whoever changes the trainer need not make the answers at once
def test_answers_are_found_at_once():
    for recipe, topology in answered():
        question = Question(recipe=recipe, target=parse_topology(topology))
        if answered()[recipe, topology][0]["versions"] == installed():
            assert Cache(None, shipped=SHIPPED).get(question.key()), f"{recipe} on {topology} is old: {REMAKE}"


def test_a_known_answer_takes_neither_tensorflow_nor_a_compiler(tmp_path):
    recipe, topology = COMMON[0]
    question = Question(recipe=recipe, target=parse_topology(topology))
    _, report = answered()[recipe, topology]
    Cache(tmp_path / "cache").put(question.key(), dataclasses.asdict(report))
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import runpy; runpy.run_module('trainer.preflight', run_name='__main__', alter_sys=True)"
    )
    flags = [f"--recipe={recipe}", f"--topology={topology}", "--jax_python=/nowhere", f"--cache={tmp_path / 'cache'}"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout.startswith(f"recipe {recipe}: ")
