"""Lists a source inside of the graph, and decides by the listing whether there is anything to build.

A tree of folders is listed folder by folder, on any number of workers; every other source lists itself in one step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.downloaded import Fetched
from beam_jobs.elements import Item, Listing, Reject
from beam_jobs.errors import crossing
from beam_jobs.settings import Settings
from beam_jobs.sources import everything
from beam_jobs.sources.folder import Folder, FolderSource
from beam_jobs.sources.left_out import LeftOut
from beam_jobs.summary import Summary, Sums, listing_of
from pipeline.format import storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """Holds what was listed: the images, and what the source leaves out, by the steps that found it."""

    items: beam.PCollection[Item]
    left_out: dict[str, beam.PCollection[LeftOut]]


def _tagged(several: Iterable[LeftOut]) -> Iterator[Any]:
    return (beam.pvalue.TaggedOutput("left_out", one) for one in several)


def list_source(_: bytes, config: Settings) -> Iterator[Any]:
    """Lists a source that is no tree of folders. Nothing → items; tagged `left_out`."""
    with crossing(config.build.source_name):
        for found in everything(config.source):
            yield beam.pvalue.TaggedOutput("left_out", found) if isinstance(found, LeftOut) else found


def list_classes(_: bytes, source: FolderSource) -> Iterator[Any]:
    """Lists the folders of the classes. Nothing → folders; tagged `left_out`."""
    with crossing(source.root):
        folders, left_out = source.classes()
    yield from folders
    yield from _tagged(left_out)


class ListFolder(beam.DoFn):
    """Lists a folder. Folder → items; tagged `left_out`, and `below`: folders in it, or, if asked, all items below."""

    def __init__(self, source: FolderSource, *, deep: bool) -> None:
        self._source = source
        self._deep = deep

    def process(self, folder: Folder) -> Iterator[Any]:
        waiting = [folder]
        while waiting:
            with crossing(self._source.root):
                folders, items, left_out = self._source.open(waiting.pop())
            yield from items
            yield from _tagged(left_out)
            if self._deep:
                waiting += folders
            else:
                yield from (beam.pvalue.TaggedOutput("below", inner) for inner in folders)


def listed(pipeline: beam.Pipeline, config: Settings) -> Listed:
    """Adds the listing to a pipeline: by folders where the source is a tree of them."""
    start = pipeline | "Start" >> beam.Impulse()
    source = config.source
    if not isinstance(source, FolderSource):
        here = start | "ListSource" >> beam.FlatMap(list_source, config).with_output_types(
            Item, left_out=LeftOut
        ).with_outputs("left_out", main="items")
        return Listed(items=here.items, left_out={"Source": here.left_out})
    top = start | "ListClasses" >> beam.FlatMap(list_classes, source).with_output_types(
        Folder, left_out=LeftOut
    ).with_outputs("left_out", main="folders")
    classes = (
        top.folders
        | "SpreadClasses" >> beam.Reshuffle()
        | "ListFolders"
        >> beam.ParDo(ListFolder(source, deep=False))
        .with_output_types(Item, below=Folder, left_out=LeftOut)
        .with_outputs("below", "left_out", main="items")
    )
    deeper = (
        classes.below
        | "SpreadFolders" >> beam.Reshuffle()
        | "ListDeeper"
        >> beam.ParDo(ListFolder(source, deep=True))
        .with_output_types(Item, left_out=LeftOut)
        .with_outputs("left_out", main="items")
    )
    return Listed(
        items=(classes.items, deeper.items) | "AllItems" >> beam.Flatten(),
        left_out={"Top": top.left_out, "Classes": classes.left_out, "Deeper": deeper.left_out},
    )


class SumUp(beam.DoFn):
    """Sums up what a bundle lists. Item, reject or what is left out → (None, sums)."""

    def start_bundle(self) -> None:
        self._summary = Summary()

    def process(self, element: Item | Reject | LeftOut) -> None:
        self._summary.add(element.item if isinstance(element, Reject) else element)

    def finish_bundle(self) -> Iterator[tuple[None, Sums]]:
        if not self._summary.empty:
            yield late((None, self._summary.sums()))


def decide_to_build(element: tuple[None, Iterable[Sums]], config: Settings) -> Listing:
    """(None, sums of the bundles) → the listing, with the version made of the same, if any; tells the launcher.

    Raises:
      BuildError: see `summary.check`.
    """
    summary = Summary()
    summary.merge(element[1])
    with crossing(config.build.output):
        listing = listing_of(summary.sums(), config)
        storage.make_folder(config.notes)
        storage.write_atomically(config.note("listed"), str(listing.total), shared=True)
    return listing


def summed_up(
    fetched: Fetched, left_out: dict[str, beam.PCollection[LeftOut]], config: Settings
) -> beam.PCollection[Listing]:
    """Adds the steps that sum up all that was listed, images that could not be downloaded included."""
    several = [
        part | f"SumUp{name}" >> beam.ParDo(SumUp()).with_output_types(tuple[None, Sums])
        for name, part in {"Items": fetched.items, **fetched.named_rejects(), **left_out}.items()
    ]
    return (
        several
        | "AllSums" >> beam.Flatten()
        | "GatherSums" >> beam.GroupByKey()
        | "DecideToBuild" >> beam.Map(decide_to_build, config).with_output_types(Listing)
    )


T = TypeVar("T")


def unless_published(element: T, listing: Listing) -> Iterator[T]:
    """Drops everything where there is nothing to do. Element → element or nothing."""
    if not listing.published:
        yield element


def to_build(fetched: Fetched, listing: beam.PCollection[Listing]) -> Fetched:
    """Adds the steps that drop everything where there is nothing to do."""
    one = beam.pvalue.AsSingleton(listing)
    return Fetched(
        items=fetched.items | "UnlessPublished" >> beam.FlatMap(unless_published, one).with_output_types(Item),
        rejects=tuple(
            part | f"{name}UnlessPublished" >> beam.FlatMap(unless_published, one).with_output_types(Reject)
            for name, part in fetched.named_rejects().items()
        ),
    )
