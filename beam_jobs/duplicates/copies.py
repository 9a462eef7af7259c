"""Drops copies in the graph: images of equal pixels first, then, as asked, those that look alike.

Who stays is decided by pure functions (`exact.resolve`, `duplicates.resolve_component`) where all that concerns an
image has met. Near duplicates are found by near.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs.duplicates import exact
from beam_jobs.duplicates.alike import resolve_component
from beam_jobs.duplicates.near import similar_images
from beam_jobs.elements import Copies, Listing, Reject, Row
from beam_jobs.settings import Settings


def _outputs(resolved: exact.Resolved) -> Iterator[Any]:
    """Turns what was decided into a step's outputs."""
    yield from resolved.kept
    yield from (beam.pvalue.TaggedOutput("rejects", reject) for reject in resolved.rejects)
    yield from (beam.pvalue.TaggedOutput("copies", group) for group in resolved.groups)


class DropCopies(beam.DoFn):
    """Decides among images of equal pixels. (digest of pixels, rows) → rows; tagged `rejects`, `copies`."""

    def process(self, element: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
        yield from _outputs(exact.resolve(element[1]))


class ResolveAlike(beam.DoFn):
    """Decides about images that look alike. (component, (row, picture)s) → rows; tagged `rejects`, `copies`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def start_bundle(self) -> None:
        self._sizes: Mapping[str, int] = {}

    def process(self, element: tuple[bytes, Iterable[tuple[Row, bytes]]], listing: Listing) -> Iterator[Any]:
        self._sizes = self._sizes or listing.sizes
        yield from _outputs(resolve_component(element[1], mode=self._mode, sizes=self._sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distinct:
    """Holds what dropping copies leaves: rows, rejects, groups of copies, of each of its steps."""

    rows: tuple[beam.PCollection[Row], ...]
    rejects: tuple[beam.PCollection[Reject], ...]
    copies: tuple[beam.PCollection[Copies], ...]


def by_pixels(row: Row) -> tuple[bytes, Row]:
    """Keys a row by its pixels. Row → (digest of pixels, row)."""
    return row.pixels, row


def without_copies(several: Mapping[str, beam.PCollection[Row]]) -> Distinct:
    """Adds the steps that keep one of each set of equal images; `several`: rows, by where they come from."""
    keyed = [
        rows | f"ByPixels{name}" >> beam.Map(by_pixels).with_output_types(tuple[bytes, Row])
        for name, rows in several.items()
    ]
    unique = (
        keyed
        | "AllRows" >> beam.Flatten()
        | "GroupByPixels" >> beam.GroupByKey()
        | "DropCopies"
        >> beam.ParDo(DropCopies())
        .with_output_types(Row, rejects=Reject, copies=Copies)
        .with_outputs("rejects", "copies", main="rows")
    )
    return Distinct(rows=(unique.rows,), rejects=(unique.rejects,), copies=(unique.copies,))


def grouped(distinct: Distinct, listing: beam.PCollection[Listing], settings: Settings) -> Distinct:
    """Adds the steps that find near duplicates and decide about them; none where they are kept as they are."""
    mode = settings.build.near_duplicates
    if mode == "keep":
        return distinct
    (rows,) = distinct.rows
    parted = similar_images(rows, listing, images_per_search=settings.images_per_search)
    resolved = (
        parted.alike
        | "GroupAlike" >> beam.GroupByKey()
        | "ResolveAlike"
        >> beam.ParDo(ResolveAlike(mode), beam.pvalue.AsSingleton(listing))
        .with_output_types(Row, rejects=Reject, copies=Copies)
        .with_outputs("rejects", "copies", main="rows")
    )
    return Distinct(
        rows=(parted.alone, resolved.rows),
        rejects=(*distinct.rejects, resolved.rejects),
        copies=(*distinct.copies, resolved.copies),
    )
