"""Does the work of a build, in whichever process: inspects images, compares them, writes shards. Free of Beam."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterable, Sequence

import numpy as np

from beam_jobs import lsh
from beam_jobs.errors import BuildError, storage_errors
from beam_jobs.inspection import inspect_items, read_bucket
from beam_jobs.job_config import JobConfig
from beam_jobs.progress import Counter
from beam_jobs.rows import RejectRow, Row, pack, unpack
from beam_jobs.shards import SourceChanged, make_records, shard_name, write_shard
from beam_jobs.sources import SourceItem
from beam_jobs.spool import Block, Spool, content
from pipeline.command import ExitCode
from pipeline.images.facts import look
from pipeline.images.policy import ReadError

STAGES = ("inspecting", "writing")


def search_bands(blocks: Iterable[Block], bands: Sequence[int]) -> bytes:
    """Finds the similar pairs in some bands among blocks of sketches by `lsh.similar`, as an EDGE array's bytes."""
    found = bytearray()  # joining the blocks would hold all of them twice
    for block in blocks:
        found += content(block)
    return lsh.similar(np.frombuffer(found, lsh.SKETCH), bands).tobytes()


class Tasks:
    """Does one worker's tasks, in one thread. Results do not depend on the worker, apart from places in the spool."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._spool = Spool(config.spool)
        self._labels = {label: number for number, label in enumerate(config.labels)}
        self._inspected, self._written = (Counter(config.progress, stage) for stage in STAGES)

    def inspect(self, buckets: Iterable[str]) -> tuple[list[tuple[int, Block]], Block | None]:
        """Inspects buckets of the listing, each by `inspect_items`.

        Returns:
          (partition by pixels, block of rows) of each partition that occurs; block of the rejects, if there are any.

        Raises:
          BuildError: the disk is full.
        """
        config = self._config
        partitions: dict[int, list[Row]] = collections.defaultdict(list)
        rejects: list[RejectRow] = []
        for bucket in buckets:
            with storage_errors(config.staging):
                rows, refused = inspect_items(
                    read_bucket(config.listing, bucket),
                    config.source,
                    policy=config.policy,
                    cache_file=os.path.join(config.cache, bucket),
                    progress=self._inspected,
                    store=self._spool.store,
                )
            for row in rows:
                partitions[int.from_bytes(row.pixels[:8], "big") % config.partitions].append(row)
            rejects += refused
        self._inspected.flush()
        blocks = [(partition, self._spool.put(pack(rows))) for partition, rows in partitions.items()]
        return blocks, self._spool.put(pack(rejects)) if rejects else None

    def look_at(self, item: SourceItem) -> None:
        """Reads and decodes one image, to see whether this process survives it."""
        with contextlib.suppress(ReadError):
            look(self._config.source.read(item), self._config.policy)

    def search(self, blocks: Sequence[Block], bands: Sequence[int]) -> bytes:
        """Searches some bands; see `search_bands`."""
        return search_bands(blocks, bands)

    def write(self, split: str, shard: int, count: int, blocks: Iterable[Block]) -> None:
        """Writes shard number `shard` of the `count` of a split, and its report.

        Raises:
          BuildError: an image is not any more what it was; the disk is full.
        """
        config = self._config
        previous = config.previous.reader(shard).find if config.previous else None
        try:
            with storage_errors(config.staging):
                write_shard(
                    (row for block in blocks for row in unpack(block)),
                    directory=config.staging,
                    reports=config.reports,
                    name=shard_name(name=config.name, split=split, shard=shard, count=count),
                    records=lambda rows: make_records(
                        rows, config.source, policy=config.policy, labels=self._labels, previous=previous
                    ),
                    progress=self._written.add,
                )
        except SourceChanged as error:
            raise BuildError(
                ExitCode.AGAIN, f"{error} changed while the build ran; run the same command again"
            ) from error
        except ReadError as error:
            raise BuildError(
                ExitCode.AGAIN, f"an image could be inspected but not read again ({error}); run the same command again"
            ) from error
        finally:
            self._written.flush()
