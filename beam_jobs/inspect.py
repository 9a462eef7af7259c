"""Inspects images in the graph: reads and decodes each once, and leaves what it found where a killed run is continued.

Images are read in batches, so that a store's latency hides behind other reads, and their facts are made several at a
time. What a batch found is written beside the versions about every thousand images and at the end of a bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.elements import Finding, Item, Reject, Row, outcome
from beam_jobs.errors import crossing
from beam_jobs.known import write_findings
from beam_jobs.reading import Reader
from beam_jobs.settings import Settings
from pipeline.images.facts import Look, look, make_facts
from pipeline.images.policy import ReadError
from pipeline.images.policy import Reject as Refusal

_BATCH = 64  # images read together
_LOOKS = 16  # finished together: so few stay in the cache of the processor
_FINDINGS = 1_000  # images a part file; what a kill can cost a worker


class Inspect(beam.DoFn):
    """Inspects images. Item → row; tagged `rejects`: reject."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        self._reader = Reader(self._settings.source)

    def teardown(self) -> None:
        self._reader.close()

    def start_bundle(self) -> None:
        self._waiting: list[Item] = []
        self._found: list[Finding] = []

    def process(self, item: Item) -> Iterator[Any]:
        self._waiting.append(item)
        if len(self._waiting) == _BATCH:
            yield from self._inspect()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(late, self._inspect())
        self._remember(at_least=1)

    def _inspect(self) -> Iterator[Any]:
        items, self._waiting = self._waiting, []
        looks: list[tuple[Item, int, Look]] = []
        for item, data in zip(items, self._reader.read(items), strict=True):
            if isinstance(data, ReadError):
                # Not remembered: reading may work next time although the stamp is the same.
                refused = Reject(item=item, code=data.code.value, detail=data.detail)
                yield beam.pvalue.TaggedOutput("rejects", refused)
                continue
            seen = look(data, self._settings.build.policy)
            if isinstance(seen, Refusal):
                yield self._outcome(item, len(data), seen)
            else:
                looks.append((item, len(data), seen))
            if len(looks) == _LOOKS:
                yield from self._finish(looks)
        yield from self._finish(looks)
        self._remember(at_least=_FINDINGS)

    def _finish(self, looks: list[tuple[Item, int, Look]]) -> Iterator[Any]:
        for (item, size, _), facts in zip(looks, make_facts([seen for *_, seen in looks]), strict=True):
            yield self._outcome(item, size, facts)
        looks.clear()

    def _outcome(self, item: Item, size: int, result: Any) -> Any:
        finding = Finding(uri=item.uri, stamp=item.stamp, size=size, result=result)
        self._found.append(finding)
        found = outcome(item, finding)
        return beam.pvalue.TaggedOutput("rejects", found) if isinstance(found, Reject) else found

    def _remember(self, *, at_least: int) -> None:
        if len(self._found) >= at_least:
            with crossing(self._settings.build.output):
                write_findings(self._found, self._settings.findings)
            self._found = []


def inspected(items: beam.PCollection[Item], settings: Settings) -> beam.pvalue.DoOutputsTuple:
    """Adds the inspection: outputs `rows`, `rejects`."""
    return (
        items
        | "SpreadItems" >> beam.Reshuffle()
        | "Inspect"
        >> beam.ParDo(Inspect(settings)).with_output_types(Row, rejects=Reject).with_outputs("rejects", main="rows")
    )
