"""Tests that folders take each other's place as a whole, also where several do at once and some are killed."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from trainer.serving.staging import staged

_PUTTING = """
    import pathlib, sys
    from trainer.serving.staging import staged
    target, me, times = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for number in range(times):
        with staged(target) as folder:
            for name in "abc":
                (folder / name).write_text(f"{me} {number}")
    print("done", flush=True)
    if times == 1:
        with staged(target) as folder:
            (folder / "half").touch()
            print("half", flush=True)
            sys.stdin.read()
"""


def putting(target, me, times):
    command = [sys.executable, "-c", textwrap.dedent(_PUTTING), str(target), str(me), str(times)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_several_at_once_each_is_whole_and_the_last_one_stays(tmp_path):
    target = tmp_path / "export"
    processes = [putting(target, me, 100) for me in range(4)]
    while any(process.poll() is None for process in processes):
        try:
            folder = os.open(target, os.O_RDONLY)  # as a server holds what it has found
        except FileNotFoundError:
            continue
        try:
            texts = {_read(name, folder) for name in "abc"} - {None}
        finally:
            os.close(folder)
        assert len(texts) <= 1, "never files of two"
    assert [process.wait() for process in processes] == [0] * 4
    assert {path.read_text() for path in target.iterdir()} <= {f"{me} 99" for me in range(4)}
    assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def _read(name, folder):
    try:
        with open(name, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, dir_fd=folder)) as file:
            return file.read()
    except FileNotFoundError:  # replaced, and removed meanwhile
        return None


def test_what_a_killed_one_leaves_goes_with_the_next_and_one_at_work_is_spared(tmp_path):
    target = tmp_path / "export"
    killed, at_work = putting(target, 0, 1), putting(target, 1, 1)
    for process in (killed, at_work):
        assert [process.stdout.readline() for _ in range(2)] == ["done\n", "half\n"]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for folder in tmp_path.glob(".export.*"):
        os.utime(folder, (0, 0))  # long ago
    with staged(target) as folder:
        (folder / "new").touch()
    (left,) = tmp_path.glob(".export.*")
    assert left.name.split(".")[2] == str(at_work.pid)
    at_work.communicate("")
    assert at_work.returncode == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "half"]


def test_what_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "a [b] c"
    with staged(target) as folder:
        (folder / "old").touch()

    def fail(folder: pathlib.Path):
        (folder / "new").touch()
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"), staged(target) as folder:
        fail(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["a [b] c", "old"]
