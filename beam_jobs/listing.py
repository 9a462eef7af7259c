"""Lists a source inside of the graph, and decides by the listing whether there is anything to build.

A tree of folders is listed folder by folder, on any number of workers; every other source lists itself in one step.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from beam_jobs import root
from beam_jobs.elements import Item, Listing
from beam_jobs.errors import BuildError, crossing
from beam_jobs.publish import build_key
from beam_jobs.settings import Settings
from beam_jobs.sources.tree import Folder, TreeSource
from pipeline.command import DataError, ExitCode

_MODULUS = 1 << 256
# [(split, label, images)], sum of the lines' hashes in 32 bytes
Sums = tuple[list[tuple[str | None, str, int]], bytes]


def list_source(_: None, config: Settings) -> Iterator[Item]:
    """Lists a source that is no tree of folders. Nothing → items."""
    with crossing(config.build.source_name):
        yield from config.source.items()


def list_classes(_: None, source: TreeSource) -> list[Folder]:
    """Lists the folders of the classes. Nothing → folders."""
    with crossing(source.root):
        return source.classes()


class ListFolder(beam.DoFn):
    """Lists a folder. Folder → items; tagged `below`: the folders in it, or, if asked, all items below it."""

    def __init__(self, source: TreeSource, *, deep: bool) -> None:
        self._source = source
        self._deep = deep

    def process(self, folder: Folder) -> Iterator[Any]:
        waiting = [folder]
        while waiting:
            with crossing(self._source.root):
                folders, items = self._source.open(waiting.pop())
            yield from items
            if self._deep:
                waiting += folders
            else:
                yield from (beam.pvalue.TaggedOutput("below", inner) for inner in folders)


def listed(pipeline: beam.Pipeline, config: Settings) -> beam.PCollection[Item]:
    """Adds the listing to a pipeline: by folders where the source is a tree of them."""
    start = pipeline | "Start" >> beam.Create([None])
    source = config.source
    if not isinstance(source, TreeSource):
        return start | "ListSource" >> beam.FlatMap(list_source, config).with_output_types(Item)
    classes = (
        start
        | "ListClasses" >> beam.FlatMap(list_classes, source).with_output_types(Folder)
        | "SpreadClasses" >> beam.Reshuffle()
        | "ListFolders"
        >> beam.ParDo(ListFolder(source, deep=False))
        .with_output_types(Item, below=Folder)
        .with_outputs("below", main="items")
    )
    deeper = (
        classes.below
        | "SpreadFolders" >> beam.Reshuffle()
        | "ListDeeper" >> beam.ParDo(ListFolder(source, deep=True)).with_output_types(Item)
    )
    return (classes.items, deeper) | "AllItems" >> beam.Flatten()


class SumUp(beam.CombineFn):
    """Sums up items, in any order. Items → `Sums`."""

    def create_accumulator(self) -> tuple[collections.Counter, int]:
        return collections.Counter(), 0

    def add_input(self, sums: tuple[collections.Counter, int], item: Item) -> tuple[collections.Counter, int]:
        sums[0][item.split, item.label] += 1
        line = json.dumps([item.uri, item.label, item.split, item.stamp], ensure_ascii=False).encode() + b"\n"
        return sums[0], sums[1] + int.from_bytes(hashlib.sha256(line).digest(), "big")

    def compact(self, sums: Any) -> Sums:
        return self.extract_output(sums)

    def merge_accumulators(self, several: Iterable[Any]) -> tuple[collections.Counter, int]:
        counts: collections.Counter = collections.Counter()
        total = 0
        for part in map(self.extract_output, several):
            counts.update({(split, label): count for split, label, count in part[0]})
            total += int.from_bytes(part[1], "big")
        return counts, total

    def extract_output(self, sums: Any) -> Sums:
        if isinstance(sums[0], list):
            return sums
        found = [(split, label, count) for (split, label), count in sums[0].items()]
        found.sort(key=lambda entry: (entry[0] or "", entry[1]))
        return found, (sums[1] % _MODULUS).to_bytes(32, "big")


def labels_of(listing: Listing, config: Settings) -> tuple[str, ...]:
    """Lists the class names in order: the source's, or the sorted ones that occur."""
    return config.labels or tuple(listing.labels)


def check(listing: Listing, config: Settings) -> None:
    """Refuses what cannot become a dataset, before any image is read.

    Raises:
      DataError: a single class, a class with fewer images than splits, or a label that is none of the source's.
    """
    labels = labels_of(listing, config)
    if len(labels) < 2:
        raise DataError(
            f'only one class, "{labels[0]}": a classifier needs two or more. If its sub-folders are the classes, '
            f"give --input one level deeper"
        )
    fractions = config.build.fractions
    sizes = {label: count for split, label, count in listing.counts if split is None}
    for label, size in sorted(sizes.items()):
        if size < len(fractions.names):
            raise DataError(
                f'class "{label}" has {size} images for {len(fractions.names)} splits ({fractions}); '
                "add images, or give fewer --splits"
            )
    if unknown := sorted(set(listing.labels) - set(labels)):
        raise DataError(f'label "{unknown[0]}" is not one of the source\'s {len(labels)} classes')


def decide_to_build(sums: Sums, config: Settings) -> Listing:
    """Sums → the listing, with the version that was made of the same, if there is one.

    Raises:
      BuildError: nothing was listed; or see `check`.
    """
    counts, total = sums
    if not counts:
        raise BuildError(
            ExitCode.USAGE, "the workers found no images: is the input visible where they run? nothing was published"
        )
    digest = hashlib.sha256(f"{config.source_fingerprint}\n{int.from_bytes(total, 'big'):x}".encode())
    fingerprint = digest.hexdigest()
    key = build_key(fingerprint, config.build.content())
    with crossing(config.build.output):
        listing = Listing(
            counts=tuple(counts),
            fingerprint=fingerprint,
            key=key,
            published=root.published_as(config.build.output, key) or "",
        )
        check(listing, config)
    return listing


def unless_published(item: Item, listing: Listing) -> Iterator[Item]:
    """Drops everything where there is nothing to do. Item → item or nothing."""
    if not listing.published:
        yield item
