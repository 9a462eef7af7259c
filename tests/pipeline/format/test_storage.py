"""Tests that files are there whole or not at all."""

import subprocess
import sys
import threading

import pytest

from pipeline.format.storage import whole_file, write_atomically


def test_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "file"
    for content, expected in (("ä\n", "ä\n".encode()), (b"\x00new", b"\x00new")):
        write_atomically(file, content)
        assert file.read_bytes() == expected
        assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with pytest.raises(TypeError), whole_file(str(file), shared=True) as half:
        half.write("no bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_takes_up_what_a_killed_writer_left(tmp_path):
    (tmp_path / ".file.tmp").write_text("half of")
    write_atomically(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writers_of_one_shared_file_do_not_meet(tmp_path):
    file = tmp_path / "file"
    contents = [str(number) * 100_000 for number in range(4)]
    failures = []

    def write(content):
        try:
            for _ in range(50):
                write_atomically(file, content, shared=True)
                assert file.read_text() in contents
        except (OSError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [file]


def test_what_answers_at_once_is_free_of_tensorflow():
    code = (
        "import sys, pipeline.format.storage, trainer.request, trainer.preflight.__main__\n"
        "print([m for m in ('tensorflow', 'keras', 'jax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
