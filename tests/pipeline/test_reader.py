import dataclasses
import pathlib

import numpy as np
import pytest
from scipy import stats

from pipeline import reader
from pipeline.augment.batch import beta_quantiles
from pipeline.command import DataError
from pipeline.format.manifest import Manifest, Shard
from pipeline.reader import Machine
from tests.datasets import random_records, write_dataset

GIB = 1 << 30


def _choose(*, examples, size, side, remote=False, whole=True, memory=32, disk=100, cores=8):
    shard = Shard(name="x", examples=examples, bytes=size, sha256="0" * 64)
    manifest = Manifest(
        name="x",
        version="1.0.0",
        labels=("a",),
        splits={"train": (shard,)},
        source_fingerprint="f",
        build={},
        code_version="0",
        max_height=side,
        max_width=side,
    )
    machine = Machine(memory=memory * GIB, disk=disk * GIB, cores=cores)
    return reader.choose_cache(manifest, "train", machine=machine, remote=remote, whole_pixels=whole)


def test_the_cache_follows_the_sizes():
    assert _choose(examples=50_000, size=150 << 20, side=32)[0] == "pixels"
    assert _choose(examples=50_000, size=120 << 20, side=32, whole=False)[0] == "bytes"
    assert _choose(examples=50_000, size=120 << 20, side=32, cores=1)[0] == "bytes"  # decoding would take too long
    assert _choose(examples=800, size=60 << 20, side=500)[0] == "pixels"
    assert _choose(examples=800, size=60 << 20, side=500, cores=2)[0] == "bytes"
    assert _choose(examples=4_000, size=300 << 20, side=500) == (
        "none",
        "300 MiB on a local disk, fast enough to stream",
    )
    assert _choose(examples=4_000, size=300 << 20, side=500, remote=True)[0] == "bytes"
    assert _choose(examples=4_000, size=300 << 20, side=500, remote=True, memory=2)[0] == "disk"
    assert _choose(examples=100_000, size=10 * GIB, side=500, remote=True)[0] == "disk"
    assert _choose(examples=100_000, size=10 * GIB, side=500, remote=True, disk=15)[0] == "none"


def test_this_machine_is_sane():
    machine = Machine.this()
    assert machine.memory > 1 << 28
    assert machine.disk > 0
    assert machine.cores >= 1


def test_a_stream_begins_at_any_record_and_opens_no_shard_before_it(tmp_path):
    data = write_dataset(tmp_path, {"train": random_records(11, classes=2)}, ["a", "b"], shards=4)  # 3, 3, 3, 2
    everything = list(reader.stream(data, "train").as_numpy_iterator())
    for first in range(11):
        assert list(reader.stream(data, "train", first=first).as_numpy_iterator()) == everything[first:]
    for number in range(2):
        pathlib.Path(data.shard_paths("train")[number]).unlink()
    for first in (6, 7, 10):
        assert list(reader.stream(data, "train", first=first).as_numpy_iterator()) == everything[first:]


def test_local_copies_are_made_once_and_checked(tmp_path):
    data = write_dataset(tmp_path / "data", {"train": random_records(6, classes=2)}, ["a", "b"])
    local = reader.on_local_disk(data, "train", tmp_path / "cache")
    names = sorted(p.name for p in pathlib.Path(local.path).iterdir())
    assert names == sorted(s.name for s in data.manifest.shards("train"))
    for name in names:
        assert (pathlib.Path(local.path) / name).read_bytes() == (pathlib.Path(data.path) / name).read_bytes()
    for shard in data.manifest.shards("train"):
        (pathlib.Path(data.path) / shard.name).unlink()
    assert reader.on_local_disk(data, "train", tmp_path / "cache") == local


def test_a_damaged_shard_is_not_copied(tmp_path):
    data = write_dataset(tmp_path / "data", {"train": random_records(6, classes=2)}, ["a", "b"])
    shard = data.manifest.shards("train")[1]
    (pathlib.Path(data.path) / shard.name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=shard.name):
        reader.on_local_disk(data, "train", tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [data.manifest.shards("train")[0].name]


def test_a_shard_with_other_than_the_listed_records_is_named(tmp_path):
    data = write_dataset(tmp_path, {"train": random_records(6, classes=2)}, ["a", "b"])
    first, second = data.manifest.shards("train")
    manifest = dataclasses.replace(data.manifest, splits={"train": (first, dataclasses.replace(second, examples=9))})
    with pytest.raises(DataError, match=f"{second.name} holds 3 records, its manifest says 9"):
        reader.load(dataclasses.replace(data, manifest=manifest), "train", "bytes")


def test_an_image_of_another_size_than_its_record_says_is_named(tmp_path):
    records = random_records(6, classes=2)
    records[4] = dataclasses.replace(records[4], height=records[4].height + 1)
    data = write_dataset(tmp_path, {"train": records}, ["a", "b"])
    with pytest.raises(DataError, match="train: image 4 has another size than its record says; .*pipeline.verify"):
        reader.load(data, "train", "pixels")


@pytest.mark.parametrize(("size", "expected"), [(200, 8192), (100_000, (128 << 20) // 100_000)])
def test_windows_are_bounded_in_bytes_and_in_records(size, expected):
    shards = tuple(Shard(name=str(i), examples=1000, bytes=1000 * size, sha256="") for i in range(100))
    manifest = Manifest(
        name="any",
        version="1.0.0",
        labels=("a", "b"),
        splits={"train": shards},
        source_fingerprint="",
        build={},
        code_version="0",
        max_height=8,
        max_width=8,
    )
    assert reader.window(manifest, "train") == expected


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_quantiles_are_those_of_the_beta_distribution(alpha):
    table = beta_quantiles(alpha)
    expected = stats.beta(alpha, alpha).ppf((np.arange(len(table)) + 0.5) / len(table))
    np.testing.assert_allclose(table, expected, atol=2e-3)
