"""Holds everything that the job's workers need to know. Free of Beam, like the workers that only handle images."""

from __future__ import annotations

import dataclasses

from beam_jobs import splits
from beam_jobs.inspection import BUCKETS
from beam_jobs.previous import PreviousVersion
from beam_jobs.sources import Source
from pipeline.images.policy import PixelPolicy

_ROWS_PER_PARTITION = 4_000
# Enough for what is done once for several buckets not to count, few enough for many workers to share a small folder.
_IMAGES_PER_GROUP = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Holds everything that the workers need to know; picklable.

    Attributes:
      source: where images come from.
      policy: what is accepted and what a record looks like.
      name: of the dataset.
      labels: class names, in order.
      total: number of images listed.
      fractions: of the splits that the build chooses.
      split_by: "rank" or "hash".
      near_duplicates: "keep", "drop" or "group"; see duplicates.py.
      validation_fraction: part of the official training images that becomes validation where the source has none.
      official: the official splits that the source names.
      seed: of the split.
      max_reject_fraction: above this part of refused images nothing is written.
      listing: directory with the bucket files.
      cache: directory with the inspection cache.
      staging: directory in which the dataset version is put together.
      reports: directory for the shards' reports.
      progress: directory for the workers' counters.
      spool: directory for blocks of rows on their way from step to step.
      previous: the version whose encoded images can be taken over, or None.
    """

    source: Source
    policy: PixelPolicy
    name: str
    labels: tuple[str, ...]
    total: int
    fractions: splits.SplitFractions
    split_by: str
    near_duplicates: str
    validation_fraction: float
    official: tuple[str, ...]
    seed: int
    max_reject_fraction: float
    listing: str
    cache: str
    staging: str
    reports: str
    progress: str
    spool: str
    previous: PreviousVersion | None

    @property
    def partitions(self) -> int:
        return -(-self.total // _ROWS_PER_PARTITION)

    @property
    def bucket_groups(self) -> list[tuple[str, ...]]:
        """Divides the buckets into groups to be inspected at a time."""
        count = min(len(BUCKETS), max(1, self.total // _IMAGES_PER_GROUP))
        return [BUCKETS[len(BUCKETS) * i // count : len(BUCKETS) * (i + 1) // count] for i in range(count)]
