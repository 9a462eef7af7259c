"""Takes from an earlier version's shards the images that it has already encoded, instead of decoding them again.

Shards are ordered by id, and their numbers are powers of two: what is in shard i of n was in shard i modulo m of m.
So one pass over one old shard a split, merged by id, meets every image of a new shard in order. Where there are fewer
shards than before, it meets a part of them, and the others are encoded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
from collections.abc import Iterator, Mapping

from beam_jobs import root
from beam_jobs.config import BuildConfig
from beam_jobs.elements import Row
from pipeline.format import storage
from pipeline.format.records import Record, RecordError, decode_example, read_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviousVersion:
    """Describes a published version whose images were encoded under the same settings.

    Attributes:
      directory: of the version.
      shards: split → its shards' names, in order.
    """

    directory: str
    shards: Mapping[str, tuple[str, ...]]

    def _records(self, name: str) -> Iterator[tuple[str, Record]]:
        # What cannot be read is encoded again: an old version's damage must not stop a new one.
        with (
            contextlib.suppress(OSError, RecordError),
            storage.open_file(storage.join(self.directory, name)) as file,
        ):
            for payload in read_frames(file):
                record = decode_example(payload)
                yield record.id, record

    def reader(self, shard: int) -> EncodedReader:
        """Opens a reader of what may belong into the new shard with this number."""
        names = [names[shard % len(names)] for names in self.shards.values() if names]
        return EncodedReader(heapq.merge(*map(self._records, names), key=lambda pair: pair[0]))


def previous_version(config: BuildConfig) -> PreviousVersion | None:
    """Finds the newest version, if its images were encoded as this build would encode them; else None."""
    for version in root.versions(config.output)[-1:]:
        manifest = root.manifest_of(config.output, version)
        if manifest and all(manifest.build.get(key) == value for key, value in config.encoding().items()):
            names = {split: tuple(shard.name for shard in part) for split, part in manifest.splits.items()}
            return PreviousVersion(directory=root.version_directory(config.output, version), shards=names)
    return None


class EncodedReader:
    """Finds encoded images, asked for in ascending order of ids."""

    def __init__(self, records: Iterator[tuple[str, Record]]) -> None:
        self._records = records
        self._next = next(records, None)

    def find(self, row: Row) -> bytes | None:
        """Returns the image of the row's record, if the earlier version holds it; else None."""
        wanted = row.id.hex()
        while self._next and self._next[0] < wanted:
            self._next = next(self._records, None)
        if self._next is None or self._next[0] != wanted:
            return None
        record, facts = self._next[1], row.facts
        return record.image if (record.height, record.width) == (facts.height, facts.width) else None
