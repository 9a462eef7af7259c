"""Tests the registry on a real file system, with a writer that is killed at arbitrary moments."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

import pytest

from pipeline.command import DataError, TryAgainError, UsageError
from pipeline.format import storage
from pipeline.format.sums import damage
from retrain import ledger, registry

LABELS = "cat\ndog\n"


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(os.urandom(100_000))
    (folder / "labels.txt").write_text(LABELS)
    return {child.name: str(child) for child in folder.iterdir()}


def test_publish_and_point(tmp_path, export):
    root = str(tmp_path / "models")
    assert registry.champion(root) is None
    first = registry.publish(root, export, {"pass_id": "a", "reasons": ["good"]})
    assert (first.number, first.path) == (1, f"{root}/1")
    assert registry.champion(root) is None, "publishing alone moves no pointer"
    registry.set_champion(root, first)
    assert registry.champion(root) == first
    assert pathlib.Path(root, "champion", "saved_model", "saved_model.pb").read_bytes() == b"graph"
    assert first.labels() == ["cat", "dog"]
    assert first.trained_on() == frozenset()
    assert first.promotion() == {"pass_id": "a", "reasons": ["good"], "model": 1}

    second = registry.publish(root, export, {"pass_id": "b"})
    registry.set_champion(root, second)
    assert os.readlink(f"{root}/champion") == "2"
    assert registry.models(root) == [first, second]
    assert registry.find(root, "a") == first
    assert registry.find(root, "c") is None


def test_registry_may_be_moved(tmp_path, export):
    root = str(tmp_path / "models")
    registry.set_champion(root, registry.publish(root, export, {"pass_id": "a"}))
    os.rename(root, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "champion" / "labels.txt").read_text() == LABELS


def test_numbers_are_never_used_again(tmp_path, export):
    root = str(tmp_path / "models")
    for _ in range(10):
        registry.publish(root, export, {"pass_id": "x"})
    assert [model.number for model in registry.models(root)] == list(range(1, 11))  # 10 after 9, not after 1


def test_a_model_copied_in_by_hand_keeps_its_number(tmp_path, export):
    root = str(tmp_path / "models")
    os.makedirs(f"{root}/4")
    assert registry.publish(root, export, {"pass_id": "a"}).number == 5
    assert registry.find(root, "b") is None


@pytest.mark.parametrize("target", ["7", "/etc", "notes"])
def test_dangling_pointer_is_an_error_not_a_first_run(tmp_path, target):
    root = str(tmp_path / "models")
    os.mkdir(root)
    os.symlink(target, f"{root}/champion")
    with pytest.raises(DataError, match="points to"):
        registry.champion(root)


def test_pointer_that_is_no_link_is_left_alone(tmp_path):
    (tmp_path / "champion").mkdir()
    with pytest.raises(DataError, match="not a symbolic link"):
        registry.champion(str(tmp_path))


def test_decision_log_appends_and_survives_a_torn_line(tmp_path):
    root = str(tmp_path / "models")
    assert ledger.decisions(root) == []
    ledger.append_decision(root, {"n": 1, "reasons": ["Löwe"]})
    ledger.append_decision(root, {"n": 2})
    log = pathlib.Path(root, "decisions.jsonl")
    with log.open("ab") as file:
        file.write(b'{"n": 3, "rea')  # killed while writing
    assert [record["n"] for record in ledger.decisions(root)] == [1, 2]
    ledger.append_decision(root, {"n": 3})
    assert [json.loads(line)["n"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_damage_inside_the_log_is_an_error(tmp_path):
    (tmp_path / "decisions.jsonl").write_bytes(b'{"n": 1}\nrubbish\n{"n": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        ledger.decisions(str(tmp_path))


WRITER = """
import pathlib, sys
from retrain import ledger, registry
root, export = sys.argv[1:]
registry.clean(root)
contents = {child.name: str(child) for child in pathlib.Path(export).iterdir()}
print("go", flush=True)
for number in range(10_000):
    registry.set_champion(root, registry.publish(root, contents, {"pass_id": str(number)}))
"""


def test_a_killed_writer_leaves_whole_models_and_a_valid_pointer(tmp_path, export):
    root, source = str(tmp_path / "models"), tmp_path / "export"
    os.mkdir(root)
    weights = (source / "saved_model" / "variables" / "variables.index").read_bytes()
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, root, str(source)], stdout=subprocess.PIPE)
        process.stdout.readline()
        seen = set()
        started = time.monotonic()
        stop, patience = started + 0.02 + 0.045 * attempt, started + 20  # a busy machine may take its time to publish
        while time.monotonic() < (patience if attempt == 5 and not seen else stop):
            # A server looking at the pointer all the while.
            champion = registry.champion(root)
            if champion:
                seen.add(champion.number)
                assert pathlib.Path(root, "champion", "labels.txt").read_text() == LABELS
        process.kill()
        process.wait()
        process.stdout.close()
        for model in registry.models(root):
            assert model.labels() == ["cat", "dog"]
            assert pathlib.Path(model.path, "saved_model", "variables", "variables.index").read_bytes() == weights
            assert model.promotion()["model"] == model.number
        registry.champion(root)
    assert seen, "the last writer had time to publish"
    registry.clean(root)
    assert not [name for name in os.listdir(root) if name.startswith(".staging")]


def test_sums_are_those_of_sha256sum(tmp_path, export):
    model = registry.publish(str(tmp_path / "models"), export, {"pass_id": "a"})
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=model.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert damage(model.path) == []


@pytest.mark.parametrize("harm", ["gone", "changed", "cut"])
def test_damage_is_named(tmp_path, export, harm):
    model = registry.publish(str(tmp_path / "models"), export, {"pass_id": "a"})
    file = pathlib.Path(model.path) / "saved_model" / "variables" / "variables.index"
    if harm == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:500] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    told = "is gone" if harm == "gone" else "is not what was published"
    assert damage(model.path) == [f"saved_model/variables/variables.index {told}"]
    with pytest.raises(DataError, match=r"models/1 is damaged: saved_model/variables/variables.index is .*rollback"):
        registry.require_whole(model)


def test_what_is_served_is_the_champion_alone_also_after_a_roll_back(tmp_path, export):
    root = str(tmp_path / "models")
    one, two = (registry.publish(root, export, {"pass_id": name, "name": "flowers"}) for name in "ab")
    for model in (one, two, one):
        registry.set_champion(root, model)
        served = list(pathlib.Path(root, "serving", "flowers").iterdir())
        assert [path.name for path in served] == [str(model.number)]
        assert (served[0] / "saved_model.pb").read_bytes() == b"graph"
        assert served[0].resolve() == pathlib.Path(model.path).resolve() / "saved_model"
    os.rename(root, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "serving" / "flowers" / "1" / "saved_model.pb").exists()


def test_the_champion_before_is_the_last_one_that_was_replaced(tmp_path, export):
    root = str(tmp_path / "models")
    models = [registry.publish(root, export, {"pass_id": name}) for name in "abc"]
    for before, after in ((None, 1), (1, 2), (2, 2), (2, 3), (3, 1)):
        ledger.append_decision(root, {"champion_before": before, "champion_after": after})
    assert registry.predecessor(root, models[0]) == models[2]
    assert registry.predecessor(root, models[1]) == models[0]
    assert registry.predecessor(root, registry.Model(9, f"{root}/9")) is None
    ledger.append_decision(root, {"champion_before": 1, "champion_after": 2, "decision": "rolled back"})
    assert registry.predecessor(root, models[1]) == models[0]  # and not 1, which was rolled back for it


def test_a_model_is_found_by_its_number(tmp_path, export):
    root = str(tmp_path / "models")
    model = registry.publish(root, export, {"pass_id": "a"})
    assert registry.numbered(root, 1) == model
    with pytest.raises(UsageError, match=r"has no model 7 \(it has 1\)"):
        registry.numbered(root, 7)


@pytest.fixture(params=["gcs", "s3"])
def store(request):
    """Yields a place in a store, as the emulators play it."""
    return f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}/models"


def test_in_a_store_a_model_counts_when_its_sums_are_there_and_the_last_pointer_counts(store, export):
    assert registry.champion(store) is None
    assert registry.models(store) == []
    one, two = (registry.publish(store, export, {"pass_id": name, "name": "flowers"}) for name in "ab")
    assert registry.models(store) == [one, two]
    assert damage(one.path) == []
    assert registry.find(store, "b") == two
    for model in (one, two, one):
        registry.set_champion(store, model)
        assert registry.champion(store) == model
        assert storage.read_text(f"{store}/CHAMPION") == f"{model.number}\n"
        served = [entry.name for entry in storage.list_folder(f"{store}/serving/flowers")]
        assert served == [str(model.number)]
        assert storage.read(f"{store}/serving/flowers/{model.number}/saved_model.pb") == b"graph"
    storage.delete(f"{store}/2/SHA256SUMS")  # as of a pass that was killed while it published
    assert registry.models(store) == [one]
    assert registry.next_number(store) == 2
    storage.write_atomically(f"{store}/1/labels.txt", "other\n")
    with pytest.raises(DataError, match=r"/models/1 is damaged: labels.txt is not what was published"):
        registry.require_whole(one)


def test_of_two_who_move_the_pointer_of_a_store_at_once_one_is_told(store, monkeypatch):
    ledger.point(store, 1)
    last = ledger._last
    monkeypatch.setattr(ledger, "_last", lambda root, folder: last(root, folder) - 1)  # what it saw before the other
    with pytest.raises(TryAgainError, match="another process has made a champion at this moment"):
        ledger.point(store, 2)
    ledger.point(store, 1)  # its own answer was lost: nothing to complain about
    monkeypatch.undo()
    assert ledger.champion_number(store) == 1


def test_the_log_of_a_store_keeps_what_several_append(store):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ledger.append_decision(store, {"n": number}), range(20)))
    assert sorted(record["n"] for record in ledger.decisions(store)) == list(range(20))
    ledger.append_decision(store, {"n": 20})
    assert ledger.decisions(store)[-1] == {"n": 20}
