"""Drops copies in the graph: images of equal pixels first, then, as asked, those that look alike.

Who stays is decided by pure functions (`exact.resolve`, `duplicates.resolve_component`) where all that concerns an
image has met. Near duplicates are found by near.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import exact, rows
from beam_jobs.duplicates import resolve_component
from beam_jobs.elements import Copies, Group, Item, Reject, Row, refuse
from beam_jobs.near import similar_images

_SHOWN = 8  # items of a group that travel on, for the report


def flat(row: Row) -> rows.Row:
    """Spells a row as the pure functions take it."""
    facts = row.facts
    return rows.Row(
        id=row.id,
        pixels=row.pixels,
        perceptual_hash=facts.perceptual_hash,
        uri=row.item.uri,
        label=row.item.label,
        official=row.item.split,
        stamp=row.item.stamp,
        split=None,
        height=facts.height,
        width=facts.width,
        channels=facts.channels,
        format=facts.format,
        bytes=row.size,
        keeps_bytes=facts.keeps_bytes,
        brightness=facts.brightness,
        sharpness=facts.sharpness,
    )


def _outputs(resolved: exact.Resolved, members: Mapping[str, Row]) -> Iterator[Any]:
    """Turns what was decided among `members`, by URI, into a step's outputs."""
    for kept in resolved.kept:
        row = members[kept.uri]
        if kept.group:
            row = dataclasses.replace(row, group=Group(name=kept.group, stratum=kept.stratum, official=kept.official))
        yield row
    for reject in resolved.rejects:
        yield beam.pvalue.TaggedOutput("rejects", refuse(members[reject.uri], reject.code, reject.detail))
    for line in resolved.groups:
        shown = [member["uri"] for member in json.loads(line)["members"][:_SHOWN]]
        items: tuple[Item, ...] = tuple(members[uri].item for uri in shown)
        yield beam.pvalue.TaggedOutput("copies", Copies(line=line, items=items))


class DropCopies(beam.DoFn):
    """Decides among images of equal pixels. (digest of pixels, rows) → rows; tagged `rejects`, `copies`."""

    def process(self, element: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
        members = {row.item.uri: row for row in element[1]}
        if len(members) == 1:
            yield from members.values()
        else:
            yield from _outputs(exact.resolve(map(flat, members.values())), members)


class ResolveAlike(beam.DoFn):
    """Decides about images that look alike. (component, (row, picture)s) → rows; tagged `rejects`, `copies`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def process(self, element: tuple[bytes, Iterable[tuple[Row, bytes]]]) -> Iterator[Any]:
        found = list(element[1])
        members = {row.item.uri: row for row, _ in found}
        pictures = {row.item.uri: (flat(row), picture) for row, picture in found}
        yield from _outputs(resolve_component(pictures.values(), mode=self._mode), members)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distinct:
    """Holds what dropping copies leaves: rows, the rejects of every step, groups of copies."""

    rows: beam.PCollection[Row]
    rejects: tuple[beam.PCollection[Reject], ...]
    copies: tuple[beam.PCollection[Copies], ...]


def without_copies(found: beam.PCollection[Row]) -> Distinct:
    """Adds the step that keeps one of each set of equal images."""
    unique = (
        found
        | "ByPixels" >> beam.Map(lambda row: (row.pixels, row)).with_output_types(tuple[bytes, Row])
        | "GroupByPixels" >> beam.GroupByKey()
        | "DropCopies"
        >> beam.ParDo(DropCopies())
        .with_output_types(Row, rejects=Reject, copies=Copies)
        .with_outputs("rejects", "copies", main="rows")
    )
    return Distinct(rows=unique.rows, rejects=(unique.rejects,), copies=(unique.copies,))


def grouped(distinct: Distinct, *, mode: str, images_per_search: int) -> Distinct:
    """Adds the steps that find near duplicates and decide about them; none where they are kept as they are."""
    if mode == "keep":
        return distinct
    parted = similar_images(distinct.rows, images_per_search=images_per_search)
    resolved = (
        parted.alike
        | "GroupAlike" >> beam.GroupByKey()
        | "ResolveAlike"
        >> beam.ParDo(ResolveAlike(mode))
        .with_output_types(Row, rejects=Reject, copies=Copies)
        .with_outputs("rejects", "copies", main="rows")
    )
    return Distinct(
        rows=(parted.alone, resolved.rows) | "AloneAndKept" >> beam.Flatten(),
        rejects=(*distinct.rejects, resolved.rejects),
        copies=(*distinct.copies, resolved.copies),
    )
