"""Picks in the graph the images that the report shows, and renders it; memory does not grow with the images."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.coders import RowCoder
from beam_jobs.elements import Copies, Item, Reject, Row
from beam_jobs.packing import pack, unpack
from beam_jobs.sources import Source
from beam_jobs.version.report import (
    EXTREMES_SHOWN,
    SAMPLES_PER_LABEL,
    read_groups,
    read_rejects,
    render_report,
    samples_per_label,
)
from beam_jobs.version.survey import EXTREMES, Picture, Survey, chance, first_few
from pipeline.format.manifest import Manifest

NO_PICTURES = pack([])
Pictures = bytes  # packed: [(kind, label or name of an extreme, rows)]

_SAMPLES, _EXTREMES = "samples", "extremes"
_AT_A_TIME = 512  # rows looked at together
_ROWS = RowCoder()


class _Picks:
    """Holds the first few rows of each kind so far."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[str, Row]] = collections.defaultdict(dict)

    def add(self, kind: str, name: str, rows: Iterable[Row]) -> None:
        """Adds rows to a kind, of which the first few stay."""
        known = self._rows[kind, name]
        known.update({row.item.uri: row for row in rows})
        key, count = (chance, SAMPLES_PER_LABEL) if kind == _SAMPLES else (EXTREMES[name][0], EXTREMES_SHOWN)
        pictures = [Picture(item=row.item, facts=row.facts) for row in known.values()]
        chosen = first_few([], pictures, count, key)
        self._rows[kind, name] = {picture.item.uri: known[picture.item.uri] for picture in chosen}

    def packed(self) -> Pictures:
        found = [(*key, list(map(_ROWS.encode, rows.values()))) for key, rows in sorted(self._rows.items())]
        return pack(found)


class Pick(beam.DoFn):
    """Picks among the rows of a bundle. Row → (None, pictures)."""

    def start_bundle(self) -> None:
        self._rows: list[Row] = []
        self._picks = _Picks()

    def process(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == _AT_A_TIME:
            self._look()

    def finish_bundle(self) -> Iterator[Any]:
        self._look()
        yield late((None, self._picks.packed()))

    def _look(self) -> None:
        labels: dict[str, list[Row]] = collections.defaultdict(list)
        for row in self._rows:
            labels[row.item.label].append(row)
        for label, rows in labels.items():
            self._picks.add(_SAMPLES, label, rows)
        if self._rows:
            for name in EXTREMES:
                self._picks.add(_EXTREMES, name, self._rows)
        self._rows = []


def merge(element: tuple[None, Iterable[Pictures]]) -> Pictures:
    """Merges what several bundles picked. (None, pictures of the bundles) → pictures."""
    picks = _Picks()
    for packed in element[1]:
        for kind, name, rows in unpack(packed):
            picks.add(kind, name, map(_ROWS.decode, rows))
    return picks.packed()


def survey_of(pictures: Pictures, rejects: Iterable[Reject], copies: Iterable[Copies]) -> Survey:
    """Makes what the report shows of what was picked and the items of rejects and copies."""
    samples: dict[str, Sequence[Picture]] = {}
    extremes: dict[str, Sequence[Picture]] = {name: [] for name in EXTREMES}
    for kind, name, rows in unpack(pictures):
        found = [Picture(item=row.item, facts=row.facts) for row in map(_ROWS.decode, rows)]
        (samples if kind == _SAMPLES else extremes)[name] = found
    items: dict[str, Item] = {reject.item.uri: reject.item for reject in rejects}
    items |= {item.uri: item for group in copies for item in group.items}
    return Survey(samples=dict(sorted(samples.items())), extremes=extremes, items=items)


def report(
    *,
    manifest: Manifest,
    statistics: Mapping[str, Any],
    rejects: str,
    duplicates: str,
    found: Survey,
    source: Source,
) -> str:
    """Renders report.html.

    Args:
      manifest: of the version.
      statistics: what statistics.json holds.
      rejects: text of rejects.jsonl.
      duplicates: text of duplicates.jsonl.
      found: what is shown.
      source: reads the images that are shown.
    """
    count = samples_per_label(manifest.labels)
    samples = {label: several[:count] for label, several in found.samples.items()}
    return render_report(
        manifest=manifest,
        statistics=statistics,
        rejects=read_rejects(rejects.splitlines()),
        groups=read_groups(duplicates.splitlines()),
        picked=Survey(samples=samples, extremes=found.extremes, items=found.items),
        source=source,
    )


def picked(rows: beam.PCollection[Row]) -> beam.PCollection[Pictures]:
    """Adds the steps that pick what the report shows."""
    return (
        rows
        | "PickPictures" >> beam.ParDo(Pick()).with_output_types(tuple[None, Pictures])
        | "GatherPictures" >> beam.GroupByKey()
        | "MergePictures" >> beam.Map(merge).with_output_types(Pictures)
    )
