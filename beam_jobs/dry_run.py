"""Tells what a build would do, for `--dry_run`, from the listing, the cache and a small sample; writes nothing."""

from __future__ import annotations

import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Sequence

from beam_jobs import publish
from beam_jobs.build import check_listing
from beam_jobs.build_config import BuildConfig
from beam_jobs.inspection import BUCKETS, Listing, cache_key, inspected_row, read_bucket, read_cache, write_listing
from beam_jobs.shards import num_shards, record_bytes
from beam_jobs.sources import Source, SourceItem
from beam_jobs.splits import split_order, targets
from pipeline.images.facts import inspect
from pipeline.images.policy import ReadError, Reject

_SAMPLE = 64


@dataclasses.dataclass(kw_only=True)
class _Sample:
    seconds: float = 0.0
    refused: int = 0
    unread: int = 0
    bytes: list[int] = dataclasses.field(default_factory=list)


def _known(listing: Listing, config: BuildConfig) -> int:
    """Counts the listed images that an earlier build has inspected."""
    cache = os.path.join(config.output, publish.WORK_DIR, "inspected", cache_key(config.policy))
    known = 0
    for bucket in BUCKETS:
        entries = read_cache(os.path.join(cache, bucket))
        for item in read_bucket(listing.directory, bucket):
            entry = entries.get(item.uri)
            known += entry is not None and entry.stamp == item.stamp
    return known


def _choose(listing: Listing) -> list[SourceItem]:
    chosen: list[SourceItem] = []
    for bucket in random.Random(0).sample(BUCKETS, len(BUCKETS)):
        chosen += read_bucket(listing.directory, bucket)
        if len(chosen) >= _SAMPLE:
            break
    return chosen[:_SAMPLE]


def _inspect(items: Sequence[SourceItem], source: Source, config: BuildConfig) -> _Sample:
    sample = _Sample()
    start = time.monotonic()
    for item in items:
        try:
            data = source.read(item)
        except ReadError:
            sample.unread += 1
            continue
        facts = inspect(data, config.policy)
        if isinstance(facts, Reject):
            sample.refused += 1
        else:
            sample.bytes.append(record_bytes(inspected_row(item, len(data), facts)))
    sample.seconds = time.monotonic() - start
    return sample


def _split_sizes(listing: Listing, config: BuildConfig) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for (official, _), count in listing.counts.items():
        if official:
            sizes[official] = sizes.get(official, 0) + count
        else:
            for name, share in zip(config.fractions.names, targets(count, config.fractions.fractions), strict=True):
                sizes[name] = sizes.get(name, 0) + share
    if "validation" not in sizes and "train" in sizes and config.validation_fraction:
        sizes["validation"] = round(sizes["train"] * config.validation_fraction)
        sizes["train"] -= sizes["validation"]
    return sizes


def describe(source: Source, config: BuildConfig, *, workers: int) -> str:
    """Describes the plan and the estimate, for a person.

    Raises:
      UsageError, DataError: what the build itself would refuse without reading images.
    """
    with tempfile.TemporaryDirectory() as directory:
        listing = write_listing(source, directory)
        labels = source.labels() or listing.labels()
        check_listing(listing, labels, config)
        key = publish.build_key(listing.fingerprint, config.content())
        if version := publish.published_as(config.output, key):
            return f"nothing to do: {listing.total} images unchanged since version {version}"
        known = _known(listing, config)
        sample = _inspect(_choose(listing), source, config)
    lines = [f"{listing.total} images of {len(labels)} classes, {known} of them known from earlier builds"]
    sizes = _split_sizes(listing, config)
    read = len(sample.bytes) + sample.refused
    mean = sum(sample.bytes) / len(sample.bytes) if sample.bytes else 0.0
    for split in split_order(list(sizes)):
        shards = num_shards(examples=sizes[split], size=int(sizes[split] * mean))
        lines.append(f"  {split:<10}{sizes[split]:8d}  images at most, in about {shards} shards")
    if read:
        seconds = (listing.total - known) * sample.seconds / read / workers
        total = mean * listing.total * len(sample.bytes) / read
        lines.append(
            f"from a sample of {read}: {sample.refused} refused, about {total / 1e6:.0f} MB of records, "
            f"about {seconds:.0f} s of decoding with {workers} workers"
        )
    if sample.unread:
        lines.append(f"{sample.unread} sampled images are not here yet or cannot be read")
    lines.append(f"would become version {publish.next_version(config.output)} in {config.output}; nothing was written")
    return "\n".join(lines)
