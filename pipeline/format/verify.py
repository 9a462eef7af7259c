"""Checks every record and every shard of a dataset, and copies a dataset without what is damaged. Free of TensorFlow.

File sizes and sha256 against the manifest, every record's checksums, features, label and size; and every image by the
decoder that the caller brings.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator

from absl import logging

from pipeline.format import records, storage
from pipeline.format.manifest import MANIFEST_FILE, DatasetVersion, Manifest, Shard
from pipeline.format.records import Record, RecordError

_CHUNK = 256  # records that are decoded side by side

# Decodes a record's image; says what is wrong with it, or "".
ImageCheck = Callable[[Record], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Says what is wrong, and where.

    Attributes:
      shard: file name.
      record: number in the shard, from 0; None for the shard as a whole.
      reason: in words.
    """

    shard: str
    record: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}{'' if self.record is None else f', record {self.record}'}: {self.reason}"


def _check_record(payload: bytes | RecordError, *, num_classes: int, check_image: ImageCheck) -> str:
    if isinstance(payload, RecordError):
        return str(payload).partition(": ")[2]
    try:
        record = records.decode_example(payload)
    except RecordError as error:
        return str(error)
    if record.label >= num_classes:
        return f"label {record.label} is out of range, there are {num_classes} classes (id {record.id})"
    reason = check_image(record)
    return f"{reason} (id {record.id}, {record.source})" if reason else ""


def _scan(path: storage.Path, *, num_classes: int, check_image: ImageCheck) -> Iterator[tuple[bytes, str]]:
    """Yields each record's payload and what is wrong with it, or an empty string."""

    def check(payload: bytes | RecordError) -> tuple[bytes, str]:
        reason = _check_record(payload, num_classes=num_classes, check_image=check_image)
        return b"" if isinstance(payload, RecordError) else payload, reason

    with storage.open_file(path) as file, concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        frames = records.scan_frames(file)
        while chunk := list(itertools.islice(frames, _CHUNK)):
            yield from pool.map(check, chunk)


def _shard_problems(
    path: storage.Path, shard: Shard, *, num_classes: int, check_image: ImageCheck
) -> Iterator[Problem]:
    found = 0
    for number, (_, reason) in enumerate(_scan(path, num_classes=num_classes, check_image=check_image)):
        found = number + 1
        if reason:
            yield Problem(shard=shard.name, record=number, reason=reason)
    if found != shard.examples:
        yield Problem(
            shard=shard.name, record=None, reason=f"holds {found} records, the manifest says {shard.examples}"
        )
    digest = hashlib.sha256()
    with storage.open_file(path) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    if digest.hexdigest() != shard.sha256:
        yield Problem(shard=shard.name, record=None, reason="its sha256 is not the manifest's")


def problems(data: DatasetVersion, split: str, check_image: ImageCheck) -> Iterator[Problem]:
    """Yields everything that is wrong with a split, in file order."""
    for shard in data.manifest.shards(split):
        path, num_classes = storage.join(data.path, shard.name), data.manifest.num_classes
        yield from _shard_problems(path, shard, num_classes=num_classes, check_image=check_image)


def log_problems(data: DatasetVersion, check_image: ImageCheck) -> list[Problem]:
    """Lists everything that is wrong with a dataset, and warns of each problem that it is left out."""
    listed = [problem for split in data.manifest.splits for problem in problems(data, split, check_image)]
    for problem in listed:
        logging.warning("left out: %s", problem)
    if listed:
        logging.warning("left out %d damaged records", sum(problem.record is not None for problem in listed))
    return listed


def copy_good_records(data: DatasetVersion, directory: storage.Path, check_image: ImageCheck) -> DatasetVersion:
    """Copies a dataset to `directory` without its damaged records.

    The copy's manifest, which is written last, counts what is there: order, resume and evaluation stay exact.
    """
    storage.make_folder(directory)
    splits = {
        split: tuple(_copy_good(data, shard, directory, check_image) for shard in shards)
        for split, shards in data.manifest.splits.items()
    }
    manifest: Manifest = dataclasses.replace(data.manifest, splits=splits)
    storage.write_atomically(storage.join(directory, MANIFEST_FILE), manifest.to_json())
    return DatasetVersion(path=os.fspath(directory), manifest=manifest)


def _copy_good(data: DatasetVersion, shard: Shard, target: storage.Path, check_image: ImageCheck) -> Shard:
    scanned = _scan(storage.join(data.path, shard.name), num_classes=data.manifest.num_classes, check_image=check_image)
    good = [records.frame(payload) for payload, reason in scanned if not reason]
    content = b"".join(good)
    storage.write_atomically(storage.join(target, shard.name), content)
    digest = hashlib.sha256(content).hexdigest()
    return Shard(name=shard.name, examples=len(good), bytes=len(content), sha256=digest)
