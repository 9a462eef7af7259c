"""Tests what is kept of answers, and which code makes them others."""

import pathlib

import pytest

from trainer.preflight import cache
from trainer.preflight.fingerprint import digest_of, followed


def test_results_are_kept_by_their_key(tmp_path):
    kept = cache.Cache(tmp_path)
    assert kept.get({"a": 1}) is None
    kept.put({"a": 1, "b": "x"}, {"value": 2.5})
    assert kept.get({"b": "x", "a": 1}) == {"value": 2.5}
    assert kept.get({"a": 1, "b": "y"}) is None
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-10])
    assert kept.get({"a": 1, "b": "x"}) is None


def test_no_directory_keeps_nothing():
    nothing = cache.Cache(None)
    nothing.put({"a": 1}, {"value": 1})
    assert nothing.get({"a": 1}) is None


def test_what_was_shipped_is_found_and_not_written_to(tmp_path):
    cache.Cache(tmp_path / "shipped").put({"a": 1}, {"value": 1})
    kept = cache.Cache(tmp_path / "own", shipped=tmp_path / "shipped")
    assert kept.get({"a": 1}) == {"value": 1}
    kept.put({"a": 2}, {"value": 2})
    assert cache.Cache(tmp_path / "shipped").get({"a": 2}) is None


CODE = {
    "p/__init__.py": "",
    "p/start.py": "from p.used import f\nfrom p import other\nimport numpy\n",
    "p/used.py": "def f():\n    return 1\n",
    "p/other.py": "def g():\n    from p.deep import h\n    return h()\n",
    "p/deep.py": "h = int\n",
    "p/unused.py": "x = 1\n",
}


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("p/used.py", '# why\ndef f():\n    """Returns one."""\n\n    return (\n        1\n    )\n', True),
        ("p/unused.py", "x = 2\n", True),
        ("p/used.py", "def f():\n    return 2\n", False),
        ("p/used.py", "def f():\n    return '1'\n", False),
        ("p/deep.py", "h = float\n", False),
        ("p/__init__.py", "import os\n", False),
    ],
)
def test_code_that_matters_is_another_key(tmp_path, file, text, same):
    def digest(changes):
        for name, code in {**CODE, **changes}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(code)
        return digest_of([tmp_path / "p/start.py"], root=tmp_path, packages=["p"])

    assert (digest({}) == digest({file: text})) == same


@pytest.mark.slow
def test_the_key_holds_the_code_that_makes_and_reads_the_program_and_no_other():
    root = pathlib.Path(__file__).resolve().parents[3]
    start = root / "trainer/preflight/examine.py"
    files = followed([start], root=root, packages=("pipeline", "trainer"))
    names = {str(path.relative_to(root)) for path in files}
    assert {"trainer/train/step.py", "trainer/models/efficientnet.py", "trainer/preflight/hlo.py",
            "pipeline/batching.py", "trainer/recipes/fitting.py"} <= names  # fmt: skip
    no_matter = {"report.py", "roofline.py", "anchors.py"}  # what an answer is printed with
    assert not names & {"trainer/run.py", "trainer/recipes/photos.py", *(f"trainer/preflight/{n}" for n in no_matter)}
