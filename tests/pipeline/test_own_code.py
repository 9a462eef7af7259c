"""Tests that functions of users are found, run and blamed."""

import hashlib

import pytest

from pipeline.command import UsageError
from pipeline.own_code import find, is_own


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return folder / name


def test_a_file_and_a_module_are_found(tmp_path, monkeypatch):
    text = "def double(x, *, size=3, mode='unit', other=None, computed=1 + 1):\n    return 2 * x\n"
    file = write(tmp_path, text, name="mine_found.py")
    monkeypatch.chdir(tmp_path)
    by_file, by_module = find("./mine_found.py:double"), find("mine_found:double")
    assert (by_file.name, by_module.name) == (f"{file}:double", "mine_found:double")
    for code in (by_file, by_module):
        assert code.file == str(file)
        assert code.defaults == {"size": 3, "mode": "unit", "other": None}
        assert code.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert code.call(21) == 42


def test_a_home_is_expanded(tmp_path, monkeypatch):
    write(tmp_path, "def f():\n    return 1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/mine.py:f").name == f"{tmp_path}/mine.py:f"


def test_what_is_read_first_is_what_is_run(tmp_path):
    file = write(tmp_path, "def f():\n    return 1\n")
    code = find(f"{file}:f")
    write(tmp_path, "def f():\n    return 2\n")
    assert code.call() == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", r"mine\.py:1: invalid syntax"),
        (
            "import no_such_module\ndef f(): pass\n",
            r"mine\.py:1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("x = 1\ndef f():\n    return 1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("def f():\n    raise ValueError('f wants more')\n", r"mine\.py:2: f wants more"),
        ("def f():\n    return deeper()\ndef deeper():\n    raise KeyError('x')\n", r"mine\.py:4: KeyError: 'x'"),
        ("import sys\nsys.exit('no')\ndef f(): pass\n", r"mine\.py:2: SystemExit: no"),
        ("def f():\n    int('x')\n", r"mine\.py:2: invalid literal for int"),
        ("def g(): pass\ndef ff(): pass\n", r'no function "f" in it; it defines g, ff\. Did you mean "ff"'),
        ("f = 3\n", r'no function "f" in it; it has none'),
        ("\0", r"mine\.py"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_its_place(tmp_path, text, says):
    file = write(tmp_path, text)
    with pytest.raises(UsageError, match=says) as raised:
        find(f"{file}:f").call()
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/mine.py:f", "cannot be read"),
        ("no_such_module:f", r'no module "no_such_module", neither in /.*write FILE.py:function'),
        ("no.such.module:f", r"\./module\.py:function"),
        ("mine.py:", "names no function"),
        (":f", "names no function"),
        ("mine.py:f()", "names no function"),
        ("gs://bucket/mine.py:f", "local files only"),
        ("sys:exit", "no module"),
    ],
)
def test_what_is_not_there_is_said(name, says):
    assert is_own(name)
    with pytest.raises(UsageError, match=says):
        find(name)
