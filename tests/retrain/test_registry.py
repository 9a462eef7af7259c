"""Tests the registry on a real file system, with a writer that is killed at arbitrary moments."""

import json
import os
import subprocess
import sys
import time

import pytest

from pipeline.command import DataError
from retrain import registry

LABELS = "cat\ndog\n"


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(os.urandom(100_000))
    (folder / "labels.txt").write_text(LABELS)
    return {child.name: child for child in folder.iterdir()}


def test_publish_and_point(tmp_path, export):
    root = tmp_path / "models"
    assert registry.champion(root) is None
    first = registry.publish(root, export, {"pass_id": "a", "reasons": ["good"]})
    assert (first.number, first.path) == (1, root / "1")
    assert registry.champion(root) is None, "publishing alone moves no pointer"
    registry.set_champion(root, first)
    assert registry.champion(root) == first
    assert (root / "champion" / "saved_model" / "saved_model.pb").read_bytes() == b"graph"
    assert first.labels() == ["cat", "dog"]
    assert first.trained_on() == frozenset()
    assert first.promotion() == {"pass_id": "a", "reasons": ["good"], "model": 1}

    second = registry.publish(root, export, {"pass_id": "b"})
    registry.set_champion(root, second)
    assert os.readlink(root / "champion") == "2"
    assert registry.models(root) == [first, second]
    assert registry.find(root, "a") == first
    assert registry.find(root, "c") is None


def test_registry_may_be_moved(tmp_path, export):
    root = tmp_path / "models"
    registry.set_champion(root, registry.publish(root, export, {"pass_id": "a"}))
    root.rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "champion" / "labels.txt").read_text() == LABELS


def test_numbers_are_never_used_again(tmp_path, export):
    root = tmp_path / "models"
    for _ in range(10):
        registry.publish(root, export, {"pass_id": "x"})
    assert [model.number for model in registry.models(root)] == list(range(1, 11))  # 10 after 9, not after 1


def test_a_model_copied_in_by_hand_keeps_its_number(tmp_path, export):
    root = tmp_path / "models"
    (root / "4").mkdir(parents=True)
    assert registry.publish(root, export, {"pass_id": "a"}).number == 5
    assert registry.find(root, "b") is None


@pytest.mark.parametrize("target", ["7", "/etc", "notes"])
def test_dangling_pointer_is_an_error_not_a_first_run(tmp_path, target):
    root = tmp_path / "models"
    root.mkdir()
    (root / "champion").symlink_to(target)
    with pytest.raises(DataError, match="points to"):
        registry.champion(root)


def test_pointer_that_is_no_link_is_left_alone(tmp_path):
    (tmp_path / "champion").mkdir()
    with pytest.raises(DataError, match="not a symbolic link"):
        registry.champion(tmp_path)


def test_decision_log_appends_and_survives_a_torn_line(tmp_path):
    root = tmp_path / "models"
    assert registry.decisions(root) == []
    registry.append_decision(root, {"n": 1, "reasons": ["Löwe"]})
    registry.append_decision(root, {"n": 2})
    log = root / "decisions.jsonl"
    with log.open("ab") as file:
        file.write(b'{"n": 3, "rea')  # killed while writing
    assert [record["n"] for record in registry.decisions(root)] == [1, 2]
    registry.append_decision(root, {"n": 3})
    assert [json.loads(line)["n"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_damage_inside_the_log_is_an_error(tmp_path):
    (tmp_path / "decisions.jsonl").write_bytes(b'{"n": 1}\nrubbish\n{"n": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        registry.decisions(tmp_path)


WRITER = """
import pathlib, sys
from retrain import registry
root, export = map(pathlib.Path, sys.argv[1:])
registry.clean(root)
contents = {child.name: child for child in export.iterdir()}
print("go", flush=True)
for number in range(10_000):
    registry.set_champion(root, registry.publish(root, contents, {"pass_id": str(number)}))
"""


def test_a_killed_writer_leaves_whole_models_and_a_valid_pointer(tmp_path, export):
    root, source = tmp_path / "models", tmp_path / "export"
    root.mkdir()
    weights = (source / "saved_model" / "variables" / "variables.index").read_bytes()
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(root), str(source)], stdout=subprocess.PIPE)
        process.stdout.readline()
        seen = set()
        started = time.monotonic()
        stop, patience = started + 0.02 + 0.045 * attempt, started + 20  # a busy machine may take its time to publish
        while time.monotonic() < (patience if attempt == 5 and not seen else stop):
            # A server looking at the pointer all the while.
            champion = registry.champion(root)
            if champion:
                seen.add(champion.number)
                assert (root / "champion" / "labels.txt").read_text() == LABELS
        process.kill()
        process.wait()
        process.stdout.close()
        for model in registry.models(root):
            assert model.labels() == ["cat", "dog"]
            assert (model.path / "saved_model" / "variables" / "variables.index").read_bytes() == weights
            assert model.promotion()["model"] == model.number
        registry.champion(root)
    assert seen, "the last writer had time to publish"
    registry.clean(root)
    assert not [child for child in root.iterdir() if child.name.startswith(".staging")]
