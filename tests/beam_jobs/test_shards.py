import hashlib
import io
import os
import pathlib
import random

import pytest

from beam_jobs import shards
from beam_jobs.previous import PreviousVersion
from beam_jobs.rows import Row
from beam_jobs.sources import SourceItem
from pipeline.format import records
from pipeline.images.policy import PixelPolicy


def row(number: int, *, keeps_bytes: bool = True) -> Row:
    return Row(
        id=hashlib.sha256(str(number).encode()).digest(),
        pixels=b"",
        perceptual_hash=b"",
        uri=str(number),
        label="cat",
        official=None,
        stamp="",
        split="train",
        height=10 + number % 7,
        width=20,
        channels=3,
        format="PNG",
        bytes=100,
        keeps_bytes=keeps_bytes,
        brightness=0.5,
        sharpness=0.1,
    )


def record(r: Row) -> records.Record:
    return records.Record(
        image=b"image " + r.uri.encode(), label=0, id=r.id.hex(), source=r.uri, height=r.height, width=r.width
    )


def write(rows, directory: pathlib.Path, name: str = "x-train.tfrecord-00000-of-00001", make=record):
    directory.mkdir(exist_ok=True)
    (directory / "reports").mkdir(exist_ok=True)
    return shards.write_shard(
        rows,
        directory=str(directory),
        reports=str(directory / "reports"),
        name=name,
        records=lambda ordered: map(make, ordered),
        progress=lambda: None,
    )


def read(path: pathlib.Path) -> list[str]:
    return [records.decode_example(p).source for p in records.read_frames(io.BytesIO(path.read_bytes()))]


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    rows = [row(i) for i in range(50)]
    one = write(rows, tmp_path / "a")
    two = write(random.Random(1).sample(rows, 50), tmp_path / "b")
    assert one == two
    content = (tmp_path / "a" / one.shard.name).read_bytes()
    assert content == (tmp_path / "b" / one.shard.name).read_bytes()
    assert (one.shard.examples, one.shard.bytes) == (50, len(content))
    assert one.shard.sha256 == hashlib.sha256(content).hexdigest()
    assert read(tmp_path / "a" / one.shard.name) == [r.uri for r in sorted(rows, key=lambda r: r.id)]


def test_a_finished_shard_is_not_written_again(tmp_path):
    rows = [row(i) for i in range(5)]
    report = write(rows, tmp_path / "a")
    before = os.stat(tmp_path / "a" / report.shard.name)

    def never(_: Row) -> records.Record:
        raise AssertionError("read again")

    assert write(rows, tmp_path / "a", make=never) == report
    assert os.stat(tmp_path / "a" / report.shard.name).st_ino == before.st_ino
    with pytest.raises(AssertionError, match="read again"):
        write(rows[:-1], tmp_path / "a", make=never)  # other rows
    with open(tmp_path / "a" / report.shard.name, "ab") as file:
        file.write(b"x")
    with pytest.raises(AssertionError, match="read again"):
        write(rows, tmp_path / "a", make=never)


def test_a_failed_write_leaves_nothing(tmp_path):
    def fails_late(r: Row) -> records.Record:
        if r.uri == "3":
            raise OSError("disk")
        return record(r)

    with pytest.raises(OSError, match="disk"):
        write([row(i) for i in range(5)], tmp_path / "a", make=fails_late)
    assert os.listdir(tmp_path / "a") == ["reports"]
    assert os.listdir(tmp_path / "a/reports") == []


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


def test_a_changed_source_is_noticed():
    class Source:
        def read(self, item: SourceItem) -> bytes:
            return b"other bytes"

    with pytest.raises(shards.SourceChanged):
        shards.make_record(row(1), Source(), policy=PixelPolicy(), label=0, previous=None)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (4, 4), (2, 8), (8, 2)])
def test_earlier_versions_give_back_what_they_hold(tmp_path, old, new):
    rows = [row(i, keeps_bytes=False) for i in range(200)]
    names: dict[str, tuple[str, ...]] = {"train": (), "test": ()}
    for split in names:
        for shard in range(old):
            name = shards.shard_name(name="x", split=split, shard=shard, count=old)
            part = rows[:100] if split == "train" else rows[100:150]
            write([r for r in part if shards.shard_of(r, old) == shard], tmp_path / "old", name)
            names[split] += (name,)
    previous = PreviousVersion(directory=str(tmp_path / "old"), shards=names)
    found = {}
    for shard in range(new):
        reader = previous.reader(shard)
        for r in sorted((r for r in rows if shards.shard_of(r, new) == shard), key=lambda r: r.id):
            found[r.uri] = reader.find(r)
    assert all(image is None or image == b"image " + uri.encode() for uri, image in found.items())
    held = {uri for uri, image in found.items() if image is not None}
    if new >= old:
        assert held == {str(i) for i in range(150)}
    else:
        assert held < {str(i) for i in range(150)}  # fewer shards than before: some images are encoded again


def test_a_damaged_earlier_version_is_no_obstacle(tmp_path):
    report = write([row(i, keeps_bytes=False) for i in range(20)], tmp_path / "old")
    path = tmp_path / "old" / report.shard.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    previous = PreviousVersion(directory=str(tmp_path / "old"), shards={"train": (report.shard.name, "absent")})
    for shard in (0, 1):
        reader = previous.reader(shard)
        found = [reader.find(r) for r in sorted((row(i, keeps_bytes=False) for i in range(20)), key=lambda r: r.id)]
        assert None in found
