"""Tests Oxford-IIIT Pet on the shared part of the real set, and on annotation files with each kind of damage."""

import pickle

import pytest

from beam_jobs.sources import open_source
from pipeline.command import DataError, UsageError
from pipeline.images.policy import ReadError, RejectCode

LIST = "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nbasset_hound_2 5 2 4\nBengal_10 6 1 2\nBengal_11 6 1 2\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in ("Abyssinian_1", "basset_hound_2", "Bengal_10"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(name.encode())
    (tmp_path / "annotations" / "list.txt").write_text(LIST)
    (tmp_path / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nBengal_11 6 1 2\n")
    (tmp_path / "annotations" / "test.txt").write_text("basset_hound_2 5 2 4\n")
    return tmp_path


def pets(path):
    return open_source("oxford_pets", input_path=str(path), options={})


def test_shared_part_of_the_real_set(shared_data):
    source = pets(shared_data / "oxford_pets_100")
    items = list(source.items())
    lines = (shared_data / "oxford_pets_100/annotations/list.txt").read_text().splitlines()
    numbers = {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}
    by_number = {number: name.rsplit("_", 1)[0] for name, number in numbers.items()}
    assert source.labels() == [by_number[number] for number in sorted(by_number)]
    assert len(items) == 100
    assert len(source.labels()) == 32
    for item in items:
        name = item.uri.removeprefix("images/").removesuffix(".jpg")
        assert item.label == by_number[numbers[name]]
    test = {line.split()[0] for line in (shared_data / "oxford_pets_100/annotations/test.txt").read_text().splitlines()}
    assert {item.uri for item in items if item.split == "test"} == {f"images/{name}.jpg" for name in test}
    assert {item.split for item in items} == {"train", "test"}
    assert all(len(source.read(item)) == int(item.stamp.split(":")[0]) for item in items)


def test_splits_labels_and_missing_files(folder):
    source = pickle.loads(pickle.dumps(pets(folder)))
    items = {item.uri: item for item in source.items()}
    assert source.labels() == ["Abyssinian", "basset_hound", "Bengal"]
    assert [(item.label, item.split) for item in items.values()] == [
        ("Abyssinian", "train"),
        ("basset_hound", "test"),
        ("Bengal", None),
        ("Bengal", "train"),
    ]
    assert source.read(items["images/Bengal_10.jpg"]) == b"Bengal_10"
    assert items["images/Bengal_11.jpg"].stamp == "absent"
    with pytest.raises(ReadError) as caught:
        source.read(items["images/Bengal_11.jpg"])
    assert caught.value.code is RejectCode.UNREADABLE


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", LIST + "Bengal 6 1\n", 'line 6: "Bengal 6 1" is not'),
        ("list.txt", LIST + "Birman 6 1 2\n", 'line 6: "Birman 6 1 2" is not'),
        ("list.txt", LIST + "../Birman_3 6 1 2\n", "line 6: .* is not"),
        ("list.txt", LIST + "x" + "_1" * 100_000 + "\n", "line 6: .* is not"),  # a pattern took for ever
        ("list.txt", LIST + "Birman_3 " + "6" * 5_000 + " 1 2\n", "line 6: .* is not"),
        ("list.txt", "\n" * (17 << 20), "more than 16777216 characters"),
        ("list.txt", LIST + "Birman_3 6 1 2\n", "class 6 is Bengal but Birman_3"),
        ("list.txt", LIST + "Bengal_12 7 1 3\n", "one breed has two"),
        ("list.txt", LIST + "Bengal_10 6 1 2\n", "Bengal_10 appears twice"),
        ("list.txt", LIST.replace("Bengal_11 6 1 2\n", ""), "Bengal_11 is missing"),
        ("test.txt", "Abyssinian_1 1 1 1\n", "Abyssinian_1 is in trainval.txt and in test.txt"),
        ("test.txt", "basset_hound_2 6 2 4\n", "another class than in list.txt"),
    ],
)
def test_damaged_annotations(folder, name, text, message):
    (folder / "annotations" / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list(pets(folder).items())


def test_missing_parts(folder):
    (folder / "annotations" / "test.txt").unlink()
    with pytest.raises(UsageError, match="annotations/test.txt"):
        list(pets(folder).items())
    with pytest.raises(UsageError, match="no such folder"):
        list(pets(folder / "nowhere").items())
