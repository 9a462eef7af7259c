"""Writes shards: decides how many, and which image goes where, and makes each one appear whole or not at all.

Everything is a function of content hashes, so any number of workers, in any order, killed or not, write the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from beam_jobs.read_ahead import read_ahead
from beam_jobs.rows import Row
from beam_jobs.sources import Source, SourceItem
from beam_jobs.spool import content
from beam_jobs.statistics import Tally
from pipeline.command import ExpectedError
from pipeline.format.manifest import Shard
from pipeline.format.records import Record, encode_example, frame
from pipeline.format.storage import whole_file, write_atomically
from pipeline.images.encode import render
from pipeline.images.policy import PixelPolicy

# Large enough to stream well from object stores, small enough that many hosts and workers get one each.
_SHARD_BYTES = 64 << 20
_SHARD_EXAMPLES = 4096
# JPEG at quality 95: what a record takes whose image is encoded anew, measured on photos.
BYTES_PER_PIXEL = 0.45


class SourceChanged(ExpectedError):
    """Reports that an image is not any more what it was when it was inspected."""


def record_bytes(row: Row) -> int:
    """Estimates how many bytes the row's record will take; the same on every machine."""
    return row.bytes if row.keeps_bytes else int(row.height * row.width * BYTES_PER_PIXEL)


def num_shards(*, examples: int, size: int) -> int:
    """Counts the shards for a split's examples and bytes: a power of two, so that hosts can share them evenly."""
    wanted = max(-(-size // _SHARD_BYTES), -(-examples // _SHARD_EXAMPLES), 1)
    return 1 << (wanted - 1).bit_length()


def shard_of(row: Row, count: int) -> int:
    """Chooses the shard, out of `count`, by the row's content hash."""
    # Not the leading bytes: they order the rows inside a shard.
    return int.from_bytes(row.id[-8:], "big") % count


def shard_name(*, name: str, split: str, shard: int, count: int) -> str:
    """Names a shard as TFDS does: `photos-train.tfrecord-00000-of-00008`."""
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{count:05d}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """Describes what was written: the manifest's entry, and the tally for the statistics."""

    shard: Shard
    tally: Tally

    def to_json(self) -> str:
        return json.dumps({"shard": dataclasses.asdict(self.shard), "tally": self.tally.to_data()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ShardReport:
        data = json.loads(text)
        return cls(shard=Shard(**data["shard"]), tally=Tally.from_data(data["tally"]))


def _digest(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.id, row.uri, row.label, row.split)).encode())
    return digest.hexdigest()


def _finished(path: str, report_path: str, digest: str) -> ShardReport | None:
    """Reads the report of a shard that an earlier, killed run finished; None if there is none or it held other rows."""
    try:
        with open(report_path, encoding="utf-8") as file:
            stored, text = file.read().split("\n", 1)
        report = ShardReport.from_json(text)
        # The report is written after its shard, so the size is only a guard against tampering.
        return report if stored == digest and os.path.getsize(path) == report.shard.bytes else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def make_record(
    row: Row, source: Source, *, policy: PixelPolicy, label: int, previous: Callable[[Row], bytes | None] | None
) -> Record:
    """Makes the image's record from what inspection encoded, what an earlier version holds, or the source once more.

    Args:
      row: the image.
      source: where it comes from.
      policy: how it is encoded, unless it keeps its bytes.
      label: its number.
      previous: finds the image in an earlier version, if there is one. To be asked in ascending order of ids.

    Raises:
      SourceChanged: the bytes are not the ones inspected.
      ReadError: the image can no longer be read.
    """
    image = content(row.image) if row.image else None
    if image is None and previous and not row.keeps_bytes:
        image = previous(row)
    if image is None:
        data = source.read(row.item())
        if row.item().content_id(data) != row.id:
            raise SourceChanged(row.uri)
        image = data if row.keeps_bytes else render(data, policy)
    return Record(image=image, label=label, id=row.id.hex(), source=row.uri, height=row.height, width=row.width)


def make_records(
    rows: Iterable[Row],
    source: Source,
    *,
    policy: PixelPolicy,
    labels: Mapping[str, int],
    previous: Callable[[Row], bytes | None] | None,
) -> Iterator[Record]:
    """Makes the records of rows in ascending order of ids, see `make_record`; `labels`: class name → number."""

    def needed(row: Row) -> SourceItem | None:
        return row.item() if row.image is None and (row.keeps_bytes or not previous) else None

    for row in read_ahead(rows, source, item=needed):
        yield make_record(row, source, policy=policy, label=labels[row.label], previous=previous)


def write_shard(
    rows: Iterable[Row],
    *,
    directory: str,
    reports: str,
    name: str,
    records: Callable[[Sequence[Row]], Iterable[Record]],
    progress: Callable[[], None],
) -> ShardReport:
    """Writes one shard and its report, or finds that an earlier run has finished it.

    Args:
      rows: the shard's rows, in any order.
      directory: where the shard goes.
      reports: where `<name>.json`, the report, goes; written last, it says that the shard is whole.
      name: of the shard file.
      records: rows, by ascending id → their records; see `make_records`.
      progress: called after every example.

    Raises: what `records` raises; OSError (the disk is full).
    """
    ordered = sorted(rows, key=lambda row: row.id)
    path, report_path = os.path.join(directory, name), os.path.join(reports, f"{name}.json")
    digest = _digest(ordered)
    if report := _finished(path, report_path, digest):
        for _ in ordered:
            progress()
        return report
    checksum, size, tally = hashlib.sha256(), 0, Tally()
    with whole_file(path, shared=True, durable=True) as file:
        for row, example in zip(ordered, records(ordered), strict=True):
            framed = frame(encode_example(example))
            file.write(framed)
            checksum.update(framed)
            size += len(framed)
            tally.add(row, image_bytes=len(example.image))
            progress()
    report = ShardReport(
        shard=Shard(name=name, examples=len(ordered), bytes=size, sha256=checksum.hexdigest()), tally=tally
    )
    write_atomically(report_path, f"{digest}\n{report.to_json()}", shared=True, durable=True)
    return report
