"""Checks every shard of a dataset: python -m pipeline.verify DATA

File sizes and sha256 against the manifest, every record's checksums, features, label and size, and a full decode of
every image with the decoder that training uses. Prints one line for each problem; exit code 65 if there are any.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator

import tensorflow as tf
from absl import logging
from etils import epath

from pipeline.command import DataError, ExitCode, UsageError, run_command
from pipeline.format import records
from pipeline.format.manifest import MANIFEST_FILE, DatasetVersion, Manifest, Shard, open_dataset
from pipeline.format.records import Record, RecordError
from pipeline.format.storage import write_atomically

_CHUNK = 256  # records that are decoded side by side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, and where.

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


def _check_image(record: Record) -> str:
    """Decodes a record as training does; returns what is wrong with it, or an empty string."""
    try:
        height, width, _ = tf.io.decode_jpeg(record.image, channels=3).shape
    except tf.errors.InvalidArgumentError as error:
        return f"its image does not decode: {error.message.splitlines()[0]}"
    if (height, width) != (record.height, record.width):
        return f"its image is {height}x{width}, the record says {record.height}x{record.width}"
    return ""


def _check_record(payload: bytes | RecordError, *, num_classes: int) -> str:
    if isinstance(payload, RecordError):
        return str(payload).partition(": ")[2]
    try:
        record = records.decode_example(payload)
    except RecordError as error:
        return str(error)
    if record.label >= num_classes:
        return f"label {record.label} is out of range, there are {num_classes} classes (id {record.id})"
    reason = _check_image(record)
    return f"{reason} (id {record.id}, {record.source})" if reason else ""


def _scan(path: epath.Path, *, num_classes: int) -> Iterator[tuple[bytes, str]]:
    """Yields each record's payload and what is wrong with it, or an empty string."""

    def check(payload: bytes | RecordError) -> tuple[bytes, str]:
        return b"" if isinstance(payload, RecordError) else payload, _check_record(payload, num_classes=num_classes)

    with path.open("rb") as file, concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        frames = records.scan_frames(file)
        while chunk := list(itertools.islice(frames, _CHUNK)):
            yield from pool.map(check, chunk)


def _shard_problems(path: epath.Path, shard: Shard, *, num_classes: int) -> Iterator[Problem]:
    found = 0
    for number, (_, reason) in enumerate(_scan(path, num_classes=num_classes)):
        found = number + 1
        if reason:
            yield Problem(shard=shard.name, record=number, reason=reason)
    if found != shard.examples:
        yield Problem(
            shard=shard.name, record=None, reason=f"holds {found} records, the manifest says {shard.examples}"
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    if digest.hexdigest() != shard.sha256:
        yield Problem(shard=shard.name, record=None, reason="its sha256 is not the manifest's")


def problems(data: DatasetVersion, split: str) -> Iterator[Problem]:
    """Yields everything that is wrong with a split, in file order."""
    for shard in data.manifest.shards(split):
        yield from _shard_problems(data.path / shard.name, shard, num_classes=data.manifest.num_classes)


@contextlib.contextmanager
def named_errors(data: DatasetVersion, split: str) -> Iterator[None]:
    """Turns a reading or decoding error of TensorFlow into a DataError that names the shard and the record.

    TensorFlow's own errors name neither, so the split is searched for the culprit, once something has failed.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        logging.warning("%s failed (%s); looking for the damaged record", split, error.message.splitlines()[0])
        first = next(problems(data, split), None)
        if first is None:
            raise
        raise DataError(
            f"{first}; `python -m pipeline.verify {data.path}` lists all, --skip_bad_records trains without them"
        ) from error


def log_problems(data: DatasetVersion) -> list[Problem]:
    """Everything that is wrong with a dataset, each with a warning that it is left out."""
    listed = [problem for split in data.manifest.splits for problem in problems(data, split)]
    for problem in listed:
        logging.warning("left out: %s", problem)
    if listed:
        logging.warning("left out %d damaged records", sum(problem.record is not None for problem in listed))
    return listed


def copy_good_records(data: DatasetVersion, directory: epath.PathLike) -> DatasetVersion:
    """Copies a dataset to `directory` without its damaged records.

    The copy's manifest, which is written last, counts what is there: order, resume and evaluation stay exact.
    """
    target = epath.Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    splits = {
        split: tuple(_copy_good(data, shard, target) for shard in shards)
        for split, shards in data.manifest.splits.items()
    }
    manifest: Manifest = dataclasses.replace(data.manifest, splits=splits)
    write_atomically(target / MANIFEST_FILE, manifest.to_json())
    return DatasetVersion(path=target, manifest=manifest)


def _copy_good(data: DatasetVersion, shard: Shard, target: epath.Path) -> Shard:
    scanned = _scan(data.path / shard.name, num_classes=data.manifest.num_classes)
    good = [records.frame(payload) for payload, reason in scanned if not reason]
    content = b"".join(good)
    (target / shard.name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Shard(name=shard.name, examples=len(good), bytes=len(content), sha256=digest)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UsageError("usage: python -m pipeline.verify DATA")
    data = open_dataset(arguments[0])
    found = 0
    for split, shards in data.manifest.splits.items():
        for problem in problems(data, split):
            found += 1
            print(problem)
        print(f"{split}: {len(shards)} shards, {data.manifest.num_examples(split)} records checked")
    print(f"{found} problems" if found else "all good")
    return ExitCode.DATA if found else ExitCode.DONE


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
