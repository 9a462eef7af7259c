"""Logs answers, from several processes too, kills them, damages what they wrote, and reads it back."""

from __future__ import annotations

import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid

import numpy as np
import pytest

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.answer_log import AnswerLog, read_answers, served_name

LABELS = ("a", "b", "c")


def add(log: AnswerLog, number: int, *, features: bool = True, seconds: float | None = None) -> None:
    """Logs an answer from which its number can be read in every column."""
    log.add(
        probabilities=np.array([number, 0, 1], np.float32),
        features=np.full(4, number, np.float32) if features else None,
        facts={"brightness": number / 10, "area": float(number)},
        seconds=float(number) if seconds is None else seconds,
    )


def numbers(directory: pathlib.Path | str, **wanted) -> list[int]:
    return read_answers(directory, **wanted).probabilities[:, :1].astype(int).ravel().tolist()


def parts(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("answers-*.npz"))


def test_what_is_logged_is_read_in_the_order_of_time(tmp_path):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, rows=3)
    for number in (4, 1, 3, 0, 2):
        add(log, number)
    log.close()
    found = read_answers(tmp_path)
    assert (found.model, found.labels, dict(found.others), found.damaged) == ("1-aa", LABELS, {}, ())
    np.testing.assert_array_equal(found.seconds, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(found.probabilities[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(found.features, np.repeat(np.arange(5.0)[:, None], 4, axis=1))
    np.testing.assert_allclose(found.facts["brightness"], np.arange(5) / 10)
    assert (found.probabilities.dtype, found.features.dtype, found.seconds.dtype) == (np.float32, np.float16, float)
    assert len(parts(tmp_path)) == 2
    assert numbers(tmp_path, since=3.0) == [3, 4]


def test_every_part_is_read_without_pickle_by_plain_numpy(tmp_path):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS)
    add(log, 7)
    log.close()
    (part,) = parts(tmp_path)
    with np.load(part, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays.files} == {
            "format": "i", "model": "U", "labels": "U", "seconds": "f", "probabilities": "f", "fact_names": "U",
            "facts": "f", "features": "f",
        }  # fmt: skip
        assert arrays["features"].dtype == np.float16


def test_rows_without_features_or_without_a_fact_are_kept(tmp_path):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, rows=2)
    add(log, 0, features=False)
    add(log, 1)
    log.add(probabilities=np.array([2, 0, 0]), features=np.full(4, 1e9), facts={"area": 5}, seconds=2)
    log.close()
    found = read_answers(tmp_path)
    np.testing.assert_array_equal(np.isnan(found.features).all(axis=1), [True, False, False])
    assert np.isfinite(found.features[2]).all()  # float16 holds less
    np.testing.assert_array_equal(np.isnan(found.facts["brightness"]), [False, False, True])
    none = AnswerLog(tmp_path / "none", model="1-aa", labels=LABELS)
    add(none, 0, features=False)
    none.close()
    assert read_answers(tmp_path / "none").features is None


def test_models_are_told_apart_by_digest_and_labels(tmp_path):
    for model, labels, first in (("1-aa", LABELS, 0), ("2-bb", LABELS, 10), ("2-bb", ("x", "y", "z"), 20)):
        log = AnswerLog(tmp_path, model=model, labels=labels)
        for number in range(first, first + 3):
            add(log, number)
        log.close()
    assert numbers(tmp_path) == [20, 21, 22]  # the last that answered
    found = read_answers(tmp_path, model="copied-elsewhere-aa")
    assert found.probabilities[:, 0].tolist() == [0, 1, 2]
    assert dict(found.others) == {"2-bb": 6}
    absent = read_answers(tmp_path, model="3-cc")
    assert (len(absent.seconds), absent.model, dict(absent.others)) == (0, "", {"1-aa": 3, "2-bb": 6})


def test_an_export_is_called_by_its_folder_and_its_content(tmp_path):
    export = tmp_path / "7"
    export.mkdir()
    assert served_name(export) == "7"
    (export / "model.tflite").write_bytes(b"weights")
    assert re.fullmatch("7-[0-9a-f]{8}", served_name(export))
    (tmp_path / "champion").symlink_to("7")
    assert served_name(tmp_path / "champion") == served_name(f"{export}/")
    shutil.copytree(export, tmp_path / "copy")
    assert served_name(tmp_path / "copy").split("-")[1] == served_name(export).split("-")[1]
    (export / "model.tflite").write_bytes(b"other weights")
    assert served_name(tmp_path / "copy").split("-")[1] != served_name(export).split("-")[1]


def test_a_quiet_server_writes_within_seconds_and_one_file(tmp_path):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, seconds=0.05)
    for number in range(3):
        add(log, number)
        until = time.monotonic() + 10
        while len(numbers(tmp_path)) <= number:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert len(parts(tmp_path)) == 1
    log.close()


def test_the_oldest_parts_go_whoever_wrote_them(tmp_path):
    for first in (0, 100):
        log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, rows=10, max_bytes=12_000)
        for number in range(first, first + 100):
            add(log, number)
        log.close()
    left = numbers(tmp_path)
    assert left == list(range(left[0], 200))
    assert 10 <= len(left) < 100
    assert sum(part.stat().st_size for part in parts(tmp_path)) <= 12_000
    # What a killed writer left half-written is the oldest of all.
    (tmp_path / ".answers-0000000000000-dead-000000.npz.tmp").write_bytes(bytes(12_000))
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, rows=10, max_bytes=12_000)
    add(log, 200)
    log.close()
    assert not list(tmp_path.glob(".*"))
    assert numbers(tmp_path)[-1] == 200


_WRITER = """
    import sys, time
    import numpy as np
    from pipeline.format.answer_log import AnswerLog
    log = AnswerLog(sys.argv[1], model="1-aa", labels=["a", "b", "c"], rows=20, seconds=0.05)
    number = int(sys.argv[2])
    while True:
        log.add(probabilities=np.array([number, 0, 1], np.float32), features=np.full(500, 0.5, np.float32),
                facts={"area": 1.0}, seconds=time.time())
        print(number, time.time(), flush=True)
        number += 1
        time.sleep(0.0005)
"""


def test_killed_at_any_moment_all_but_the_last_seconds_is_readable(tmp_path):
    for kill in range(3):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path), str(1_000_000 * (2 * kill + process))],
                stdout=subprocess.PIPE,
                text=True,
            )
            for process in range(2)
        ]
        for process in started:
            assert process.stdout
            process.stdout.readline()
        time.sleep(0.7 + 0.13 * kill)
        for process in started:
            process.send_signal(signal.SIGKILL)
        # The last line may be cut off by the kill, and is whole only with its end.
        told = [process.communicate()[0].splitlines(keepends=True) for process in started]
        found = read_answers(tmp_path)
        assert found.damaged == ()
        for lines in told:
            rows = [(int(number), float(when)) for number, when in (s.split() for s in lines if s.endswith("\n"))]
            logged = {number for number, when in rows if when < rows[-1][1] - 0.45}
            assert len(logged) > 20
            assert logged <= set(found.probabilities[:, 0].astype(int).tolist())


def test_a_disk_that_takes_no_more_is_warned_of_once_and_answers_go_on(tmp_path, caplog):
    folder = tmp_path / "log"
    log = AnswerLog(folder, model="1-aa", labels=LABELS, rows=5, seconds=0.02)
    add(log, 0)
    while not (folder.exists() and parts(folder)):
        time.sleep(0.02)
    shutil.rmtree(folder)
    folder.write_text("a file is where the folder was: nothing can be written, not by root either")
    for number in range(1, 24):
        add(log, number)
        time.sleep(0.01)
    time.sleep(0.1)
    folder.unlink()
    folder.mkdir()
    add(log, 24)
    log.close()
    warnings = [r for r in caplog.records if "are not logged" in r.message]
    assert len(warnings) == 1
    kept = numbers(folder)
    assert kept[-1] == 24  # it goes on when there is room
    assert len(kept) <= 5  # and has held no more than a part in memory
    assert any("were not logged" in r.message for r in caplog.records)


def test_a_folder_that_cannot_be_made_is_said_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        AnswerLog(tmp_path / "file" / "log", model="1-aa", labels=LABELS)


def test_probabilities_of_other_labels_are_a_bug_of_the_caller(tmp_path):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS)
    with pytest.raises(ValueError, match="reshape"):
        log.add(probabilities=np.zeros(2), features=None, facts={}, seconds=0)
    log.close()
    assert parts(tmp_path) == []


def test_damaged_parts_are_named_and_left_out(tmp_path, caplog):
    log = AnswerLog(tmp_path, model="1-aa", labels=LABELS, rows=10)
    for number in range(40):
        add(log, number)
    log.close()
    cut, foreign, pickled, whole = parts(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-100])
    foreign.write_bytes(b"")
    content = io.BytesIO()
    np.savez(content, format=np.array([object()], object))
    pickled.write_bytes(content.getvalue())
    found = read_answers(tmp_path)
    assert found.damaged == (cut.name, foreign.name, pickled.name)
    assert found.probabilities[:, 0].tolist() == list(range(30, 40))
    assert all(any(name in r.message for r in caplog.records) for name in found.damaged)
    assert whole.exists()


def test_flipped_bytes_never_end_the_reader(tmp_path):
    log = AnswerLog(tmp_path / "log", model="1-aa", labels=LABELS)
    add(log, 1)
    log.close()
    (part,) = parts(tmp_path / "log")
    content, random = part.read_bytes(), np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(content)
        for at in random.integers(len(content), size=random.integers(1, 6)):
            broken[at] = random.integers(256)
        part.write_bytes(bytes(broken))
        found = read_answers(tmp_path / "log")
        assert len(found.seconds) + len(found.damaged) <= 1


def test_a_log_in_a_store_and_none_at_all(tmp_path):
    folder = f"memory://logs-{uuid.uuid4().hex}/day"
    log = AnswerLog(folder, model="1-aa", labels=LABELS, rows=2, max_bytes=1)
    for number in range(5):
        add(log, number)
    log.close()
    assert numbers(folder) == [4]
    storage.delete(folder)
    assert numbers(folder) == []
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/absent: no such folder")):
        read_answers(tmp_path / "absent")
    os.mkdir(tmp_path / "empty")
    assert numbers(tmp_path / "empty") == []
