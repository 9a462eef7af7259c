"""Picks in the graph the images that the report shows, and renders it; memory does not grow with the images."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.elements import Copies, Item, Reject, Row
from beam_jobs.sources import Source
from beam_jobs.version.report import (
    EXTREMES_SHOWN,
    SAMPLES_PER_LABEL,
    read_groups,
    read_rejects,
    render_report,
    samples_per_label,
)
from beam_jobs.version.survey import EXTREMES, Best, Survey, chance
from pipeline.format.manifest import Manifest
from pipeline.format.packing import pack, unpack
from pipeline.images.guarded import Decoder

NO_PICTURES = pack([])
Pictures = bytes  # packed: [(kind, label or name of an extreme, rows)]

_SAMPLES, _EXTREMES = "samples", "extremes"


class _Picks:
    """Holds the first few rows of each kind so far."""

    def __init__(self) -> None:
        self._samples: dict[str, Best] = collections.defaultdict(lambda: Best(SAMPLES_PER_LABEL))
        self._extremes = {name: Best(EXTREMES_SHOWN) for name in EXTREMES}

    def add_sample(self, row: Row) -> None:
        """Offers a row as a sample of its label."""
        self._samples[row.item.label].offer(row, chance(row))

    def add_extreme(self, name: str, row: Row) -> None:
        """Offers a row as an extreme."""
        self._extremes[name].offer(row, EXTREMES[name][0](row.facts))

    def packed(self) -> Pictures:
        kinds = {_SAMPLES: sorted(self._samples.items()), _EXTREMES: self._extremes.items()}
        found = [
            (kind, name, [row.to_bytes() for row in best.rows])
            for kind, several in kinds.items()
            for name, best in several
        ]
        return pack(found)


class Pick(beam.DoFn):
    """Picks among the rows of a bundle. Row → (None, pictures)."""

    def start_bundle(self) -> None:
        self._picks = _Picks()

    def process(self, row: Row) -> None:
        self._picks.add_sample(row)
        for name in EXTREMES:
            self._picks.add_extreme(name, row)

    def finish_bundle(self) -> Iterator[Any]:
        yield late((None, self._picks.packed()))


def merge(element: tuple[None, Iterable[Pictures]]) -> Pictures:
    """Merges what several bundles picked. (None, pictures of the bundles) → pictures."""
    picks = _Picks()
    for packed in element[1]:
        for kind, name, rows in unpack(packed):
            for row in map(Row.from_bytes, rows):
                if kind == _SAMPLES:
                    picks.add_sample(row)
                else:
                    picks.add_extreme(name, row)
    return picks.packed()


def survey_of(pictures: Pictures, rejects: Iterable[Reject], copies: Iterable[Copies]) -> Survey:
    """Makes what the report shows of what was picked and the items of rejects and copies."""
    samples: dict[str, Sequence[Row]] = {}
    extremes: dict[str, Sequence[Row]] = {name: [] for name in EXTREMES}
    for kind, name, rows in unpack(pictures):
        (samples if kind == _SAMPLES else extremes)[name] = list(map(Row.from_bytes, rows))
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
    decoder: Decoder,
) -> str:
    """Renders report.html.

    Args:
      manifest: of the version.
      statistics: what statistics.json holds.
      rejects: text of rejects.jsonl.
      duplicates: text of duplicates.jsonl.
      found: what is shown.
      source: reads the images that are shown.
      decoder: makes them small.
    """
    count = samples_per_label(manifest.labels)
    samples = {label: several[:count] for label, several in found.samples.items()}
    return render_report(
        manifest=manifest,
        statistics=statistics,
        # Not splitlines: names of files may hold what it takes for the end of a line (U+2028).
        rejects=read_rejects(filter(None, rejects.split("\n"))),
        groups=read_groups(filter(None, duplicates.split("\n"))),
        picked=Survey(samples=samples, extremes=found.extremes, items=found.items),
        source=source,
        decoder=decoder,
    )


def picked(rows: beam.PCollection[Row]) -> beam.PCollection[Pictures]:
    """Adds the steps that pick what the report shows."""
    return (
        rows
        | "PickPictures" >> beam.ParDo(Pick()).with_output_types(tuple[None, Pictures])
        | "GatherPictures" >> beam.GroupByKey()
        | "MergePictures" >> beam.Map(merge).with_output_types(Pictures)
    )
