import json

import pytest

from pipeline.command import DataError, UsageError
from pipeline.format import manifest


def _manifest(**changes):
    shard = manifest.Shard(name="x-train.tfrecord-00000-of-00001", examples=3, bytes=5, sha256="0" * 64)
    values = {"name": "x", "version": "1.0.0", "labels": ("a", "b"), "splits": {"train": (shard,)}}
    values |= {"source_fingerprint": "f", "build": {"seed": 0}, "code_version": "0.1.0"}
    return manifest.Manifest(**{**values, "max_height": 4, "max_width": 4, **changes})


def _publish(root):
    directory = root / "versions" / "1.0.0"
    directory.mkdir(parents=True)
    (directory / "x-train.tfrecord-00000-of-00001").write_bytes(b"12345")
    (directory / "manifest.json").write_text(_manifest().to_json())
    (root / "CURRENT").write_text("1.0.0\n")
    return directory


def test_json_round_trip_is_stable():
    text = _manifest().to_json()
    assert manifest.Manifest.from_json(text) == _manifest()
    assert manifest.Manifest.from_json(text).to_json() == text


def test_a_manifest_written_before_the_order_of_labels_was_told_is_read():
    data = json.loads(_manifest(label_order="number").to_json())
    assert data.pop("label_order") == "number"
    assert manifest.Manifest.from_json(json.dumps(data)) == _manifest(label_order="")


def test_a_root_and_a_version_directory_both_open(tmp_path):
    directory = _publish(tmp_path)
    assert manifest.open_dataset(tmp_path) == manifest.open_dataset(directory)
    assert manifest.open_dataset(tmp_path).shard_paths("train") == [str(directory / "x-train.tfrecord-00000-of-00001")]
    assert manifest.open_dataset(tmp_path).manifest.num_examples("train") == 3


def test_a_directory_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        manifest.open_dataset(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        manifest.open_dataset(tmp_path)


def test_an_absent_shard_and_a_damaged_manifest_are_named(tmp_path):
    directory = _publish(tmp_path)
    (directory / "x-train.tfrecord-00000-of-00001").unlink()
    with pytest.raises(DataError, match="lists x-train.tfrecord-00000-of-00001, which is absent"):
        manifest.open_dataset(tmp_path)
    data = json.loads((directory / "manifest.json").read_text())
    del data["labels"]
    (directory / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="missing key 'labels'"):
        manifest.open_dataset(tmp_path)


@pytest.mark.parametrize("change", [{"splits": []}, {"splits": {"train": [3]}}, {"labels": 7}, {"version": 1}])
def test_a_manifest_of_wrong_types_is_damaged_not_a_bug(tmp_path, change):
    directory = _publish(tmp_path)
    data = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(data | change))
    with pytest.raises(DataError, match="not a valid manifest"):
        manifest.open_dataset(tmp_path)


def test_an_unknown_split_gets_the_nearest_name():
    with pytest.raises(UsageError, match='no split "trian".*Did you mean "train"'):
        _manifest().shards("trian")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "v1"}, "MAJOR"),
        ({"labels": ("a", "a")}, "distinct"),
        ({"splits": {}}, "one split"),
        ({"format_version": 2}, "format_version 2"),
    ],
)
def test_a_manifest_validates_itself(change, message):
    with pytest.raises(ValueError, match=message):
        _manifest(**change)
