"""Tests how many shards there are and what each holds, and that an earlier version gives back what it has encoded."""

import hashlib
import pathlib

import pytest

from beam_jobs import shards
from beam_jobs.elements import Row
from beam_jobs.version.previous import PreviousVersion
from pipeline.format import records
from tests.beam_jobs.image_folders import make_row


def row(number: int) -> Row:
    digest = hashlib.sha256(str(number).encode()).digest()
    return make_row(str(number), id=digest, size=(10 + number % 7, 20), keeps_bytes=False)


def record(r: Row) -> records.Record:
    return records.Record(
        image=b"image " + r.item.uri.encode(),
        label=0,
        id=r.id.hex(),
        source=r.item.uri,
        height=r.facts.height,
        width=r.facts.width,
    )


def write(rows: list[Row], path: pathlib.Path) -> None:
    path.parent.mkdir(exist_ok=True)
    ordered = sorted(rows, key=lambda r: r.id)
    path.write_bytes(b"".join(records.frame(records.encode_example(record(r))) for r in ordered))


def test_shards_are_powers_of_two_of_even_size():
    assert shards.num_shards(examples=1, size=1) == 1
    assert shards.num_shards(examples=5000, size=1) == 2
    assert shards.num_shards(examples=1000, size=65 << 20) == 2
    assert shards.num_shards(examples=1_281_167, size=140 << 30) == 4096
    sizes = [0] * 8
    for i in range(8000):
        sizes[shards.shard_of(row(i), 8)] += 1
    assert min(sizes) > 850
    assert max(sizes) < 1150


@pytest.mark.parametrize(("old", "new"), [(1, 1), (4, 4), (2, 8), (8, 2)])
def test_earlier_versions_give_back_what_they_hold(tmp_path, old, new):
    rows = [row(i) for i in range(200)]
    names: dict[str, tuple[str, ...]] = {"train": (), "test": ()}
    for split in names:
        for shard in range(old):
            name = shards.shard_name(name="x", split=split, shard=shard, count=old)
            part = rows[:100] if split == "train" else rows[100:150]
            write([r for r in part if shards.shard_of(r, old) == shard], tmp_path / "old" / name)
            names[split] += (name,)
    previous = PreviousVersion(directory=str(tmp_path / "old"), shards=names)
    found = {}
    for shard in range(new):
        reader = previous.reader(shard)
        for r in sorted((r for r in rows if shards.shard_of(r, new) == shard), key=lambda r: r.id):
            found[r.item.uri] = reader.find(r)
    assert all(image is None or image == b"image " + uri.encode() for uri, image in found.items())
    held = {uri for uri, image in found.items() if image is not None}
    if new >= old:
        assert held == {str(i) for i in range(150)}
    else:
        assert held < {str(i) for i in range(150)}  # fewer shards than before: some images are encoded again


def test_a_damaged_earlier_version_is_no_obstacle(tmp_path):
    rows = sorted(map(row, range(20)), key=lambda r: r.id)
    path = tmp_path / "old/shard"
    write(rows, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    previous = PreviousVersion(directory=str(tmp_path / "old"), shards={"train": ("shard", "absent")})
    for shard in (0, 1):
        reader = previous.reader(shard)
        found = list(map(reader.find, rows))
        assert None in found
