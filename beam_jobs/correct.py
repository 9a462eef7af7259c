"""Applies in the graph what a person decided about single images; adds no step where nothing was decided.

What is left out by its URI is not inspected. What an earlier run knows of it stays known: the reject holds the facts,
so that nothing is decoded again when the decision is taken back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs.corrections import Corrections
from beam_jobs.elements import Item, Listing, Reject, Row, alone, refuse
from beam_jobs.errors import crossing
from beam_jobs.settings import Settings
from beam_jobs.summary import labels_of
from pipeline.images.policy import RejectCode

_DETAIL = "by --exclude"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """Holds rows by where they come from, and the rejects of each."""

    rows: Mapping[str, beam.PCollection[Row]]
    rejects: tuple[beam.PCollection[Reject], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Holds the items to inspect, and the rejects of the others."""

    items: beam.PCollection[Item]
    rejects: tuple[beam.PCollection[Reject], ...]


class _Decided(beam.DoFn):
    """Knows what was decided; checks it against the classes when it meets the first element."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._checked = False

    def _decided(self, listing: Listing) -> Corrections:
        if not self._checked:
            with crossing("--relabel"):
                self._settings.build.corrections.check_classes(labels_of(listing, self._settings)[0])
            self._checked = True
        return self._settings.build.corrections


class DropExcluded(_Decided):
    """Leaves out what is not to be inspected. Item → item; tagged `rejects`: reject."""

    def process(self, item: Item, listing: Listing) -> Iterator[Any]:
        if not self._decided(listing).excludes(item.uri):
            yield item
            return
        reject = Reject(item=item, code=RejectCode.EXCLUDED.value, detail=_DETAIL)
        yield beam.pvalue.TaggedOutput("rejects", reject)


class Correct(_Decided):
    """Leaves a row out or gives it its class. Row → row; tagged `rejects`: reject."""

    def process(self, row: Row, listing: Listing) -> Iterator[Any]:
        corrections, item = self._decided(listing), row.item
        label = corrections.label(item.uri, row.id)
        if corrections.excludes(item.uri, row.id):
            yield beam.pvalue.TaggedOutput("rejects", refuse(row, RejectCode.EXCLUDED, _DETAIL))
        elif label is None:
            yield row
        else:
            yield alone(dataclasses.replace(item, label=label), row.size, row.facts)


def correct_reject(reject: Reject, settings: Settings) -> Reject:
    """Names a person's decision as the reason, whatever else is wrong with the image. Reject → reject."""
    if not settings.build.corrections.excludes(reject.item.uri):
        return reject
    # Without a size nobody takes the reason for what inspection found.
    return Reject(item=reject.item, code=RejectCode.EXCLUDED.value, detail=_DETAIL)


def without_excluded(items: beam.PCollection[Item], listing: beam.PCollection[Listing], settings: Settings) -> Wanted:
    """Adds the step that leaves out items before they are inspected."""
    if not settings.build.corrections.digest:
        return Wanted(items=items, rejects=())
    found = items | "DropExcluded" >> beam.ParDo(
        DropExcluded(settings), beam.pvalue.AsSingleton(listing)
    ).with_output_types(Item, rejects=Reject).with_outputs("rejects", main="items")
    return Wanted(items=found.items, rejects=(found.rejects,))


def corrected(
    several: Mapping[str, beam.PCollection[Row]], listing: beam.PCollection[Listing], settings: Settings
) -> Corrected:
    """Adds the steps that leave out rows and change their classes; `several`: rows, by where they come from."""
    if not settings.build.corrections.digest:
        return Corrected(rows=several, rejects=())
    found = {
        name: rows
        | f"Correct{name}"
        >> beam.ParDo(Correct(settings), beam.pvalue.AsSingleton(listing))
        .with_output_types(Row, rejects=Reject)
        .with_outputs("rejects", main="rows")
        for name, rows in several.items()
    }
    return Corrected(
        rows={name: parts.rows for name, parts in found.items()},
        rejects=tuple(parts.rejects for parts in found.values()),
    )


def rejects_corrected(
    several: Sequence[beam.PCollection[Reject]], settings: Settings
) -> tuple[beam.PCollection[Reject], ...]:
    """Adds the steps that name a person's decision as the reason of rejects."""
    if not settings.build.corrections.digest:
        return tuple(several)
    return tuple(
        part | f"CorrectRejects{number}" >> beam.Map(correct_reject, settings).with_output_types(Reject)
        for number, part in enumerate(several)
    )
