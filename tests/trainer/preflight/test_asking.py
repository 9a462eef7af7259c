"""Tests what an answer of preflight is known by where code of the user's own has a say."""

import shutil

import pytest

from pipeline.own_code import find
from tests.trainer.commands import ROOT
from trainer.devices.tpus import parse_topology
from trainer.preflight.asking import ask
from trainer.preflight.cache import Cache
from trainer.preflight.findings import Report
from trainer.preflight.question import Question

V5E = parse_topology("v5e:2x4")


class Known(Cache):
    """Knows an answer to everything, and which key was asked for."""

    def __init__(self):
        super().__init__(None)
        self.asked = []

    def get(self, key):
        self.asked.append(key)
        return {"known": True}


def _key(monkeypatch, **question):
    monkeypatch.setattr(Report, "from_dict", lambda value: value)
    known = Known()
    assert list(ask(Question(target=V5E, **question), jax_python="", cache=known)) == [{"known": True}]
    find.cache_clear()
    return known.asked[0]


@pytest.mark.parametrize(
    "place", ["recipe", *(pytest.param(p, marks=pytest.mark.slow) for p in ("settings", "backbone"))]
)
def test_a_change_of_own_code_asks_anew(tmp_path, monkeypatch, place):
    file = shutil.copy(ROOT / "examples" / "own_code.py", tmp_path / "mine.py")
    question = {
        "backbone": {"recipe": "quick", "backbone": f"{file}:small_cnn"},
        "settings": {"recipe": "quick", "settings": (f"augment.policy={file}:lights_out",)},
        "recipe": {"recipe": str(file)},
    }[place]
    first = _key(monkeypatch, **question)
    assert _key(monkeypatch, **question) == first
    with file.open("a") as opened:
        opened.write("# another\n")
    assert _key(monkeypatch, **question) != first


def test_no_code_of_ones_own_is_no_part_of_the_key(monkeypatch):
    assert _key(monkeypatch, recipe="quick") == Question(recipe="quick", target=V5E).key()
