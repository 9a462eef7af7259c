"""Tells what a build would do, for `--dry_run`, from the listing, what earlier builds know, and a small sample."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import time
from collections.abc import Iterator, Sequence

from beam_jobs import root
from beam_jobs.build import make_settings
from beam_jobs.config import BuildConfig
from beam_jobs.decoding import pool_of
from beam_jobs.download.store import is_url
from beam_jobs.elements import Finding, Item, Listing, alone
from beam_jobs.settings import Settings
from beam_jobs.shards import num_shards, record_bytes
from beam_jobs.sources import RemoteSource, Source, everything
from beam_jobs.sources.left_out import LeftOut
from beam_jobs.splits import split_order, targets
from beam_jobs.summary import Summary, holds_out, labels_of, left_out_lines, listing_of
from pipeline.images.policy import ReadError, Reject

_SAMPLE = 64


@dataclasses.dataclass(kw_only=True)
class _Listed:
    """Holds what one pass over the listing gives; `wanted`: what a person does not leave out, as they labelled it."""

    summary: Summary = dataclasses.field(default_factory=Summary)
    wanted: Summary = dataclasses.field(default_factory=Summary)
    known: int = 0
    urls: int = 0
    excluded: int = 0
    relabelled: int = 0
    sample: Sequence[Item] = ()


@dataclasses.dataclass(kw_only=True)
class _Sample:
    seconds: float = 0.0
    refused: int = 0
    unread: int = 0
    bytes: list[int] = dataclasses.field(default_factory=list)


def _list(settings: Settings) -> _Listed:
    """Lists the source; samples the images whose URIs have the smallest hashes."""
    from beam_jobs.known import every_finding  # not above: Beam takes a second to import

    known = {finding.uri: (finding.stamp, _id_of(finding)) for finding in every_finding(settings)}
    corrections = settings.build.corrections
    listed = _Listed()
    remote = isinstance(settings.source, RemoteSource)

    def items() -> Iterator[Item]:
        for item in everything(settings.source):
            listed.summary.add(item)
            if isinstance(item, LeftOut):
                continue
            stamp, sha256 = known.get(item.uri, (None, None))
            image_id = item.raw_id or (sha256 if stamp == item.stamp else None)
            if corrections.excludes(item.uri, image_id):
                listed.excluded += 1
                continue
            label = corrections.label(item.uri, image_id)
            listed.relabelled += label is not None
            listed.wanted.add(dataclasses.replace(item, label=label or item.label))
            listed.known += stamp == item.stamp
            listed.urls += remote and is_url(item.uri)
            yield item

    listed.sample = heapq.nsmallest(_SAMPLE, items(), key=lambda item: hashlib.sha256(item.uri.encode()).digest())
    return listed


def _id_of(finding: Finding) -> bytes | None:
    return None if isinstance(finding.result, Reject) else bytes.fromhex(finding.result.sha256)


def _inspect(items: Sequence[Item], settings: Settings) -> _Sample:
    sample = _Sample()
    start = time.monotonic()
    with pool_of(settings.build.policy, settings.build.budget).lent() as decoder:
        for item in items:
            try:
                data = settings.source.read(item)
            except ReadError:
                sample.unread += 1
                continue
            (facts,) = decoder.inspect([data])
            if isinstance(facts, Reject):
                sample.refused += 1
            else:
                sample.bytes.append(record_bytes(alone(item, len(data), facts), settings.build.policy))
    sample.seconds = time.monotonic() - start
    return sample


def _split_sizes(listing: Listing, config: BuildConfig) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for official, _, count in listing.counts:
        if official:
            sizes[official] = sizes.get(official, 0) + count
        else:
            for name, share in zip(config.fractions.names, targets(count, config.fractions.fractions), strict=True):
                sizes[name] = sizes.get(name, 0) + share
    if holds_out(listing, config):
        held_out = round(sizes["train"] * config.validation_fraction)
        sizes["validation"] = sizes.get("validation", 0) + held_out
        sizes["train"] -= held_out
    return sizes


def describe(source: Source, config: BuildConfig, *, workers: int) -> str:
    """Describes the plan and the estimate, for a person; writes nothing.

    Raises:
      UsageError, DataError: what the build itself would refuse without reading images.
    """
    settings = make_settings(source, config)
    listed = _list(settings)
    listing = listing_of(listed.summary.sums(), settings)
    if listing.published and not listed.urls:
        return f"nothing to do: {listing.total} images unchanged since version {listing.published}"
    sample = _inspect(listed.sample, settings)
    labels, _ = labels_of(listing, settings)
    config.corrections.check_classes(labels)
    lines = [f"{listing.total} images of {len(labels)} classes, {listed.known} of them known from earlier builds"]
    lines += [f"  {line}" for line in left_out_lines(listing.left_out)]
    if config.corrections.digest:
        lines.append(
            f"  of these {listed.excluded} left out by --exclude, {listed.relabelled} given another class by --relabel "
            "(by id: those that are known)"
        )
    wanted = dataclasses.replace(listing, counts=tuple(listed.wanted.sums()[0]))
    sizes = _split_sizes(wanted, config)
    read = len(sample.bytes) + sample.refused
    mean = sum(sample.bytes) / len(sample.bytes) if sample.bytes else 0.0
    for split in split_order(list(sizes)):
        shards = num_shards(examples=sizes[split], size=int(sizes[split] * mean))
        lines.append(f"  {split:<10}{sizes[split]:8d}  images at most, in about {shards} shards")
    if read:
        seconds = (wanted.total - listed.known) * sample.seconds / read / workers
        total = mean * wanted.total * len(sample.bytes) / read
        lines.append(
            f"from a sample of {read}: {sample.refused} refused, about {total / 1e6:.0f} MB of records, "
            f"about {seconds:.0f} s of decoding with {workers} workers"
        )
    if listed.urls:
        lines.append(f"{listed.urls} images have to be downloaded, or have been")
    elif sample.unread:
        lines.append(f"{sample.unread} of {len(listed.sample)} sampled images cannot be read")
    lines.append(f"would become version {root.next_version(config.output)} in {config.output}; nothing was written")
    return "\n".join(lines)
