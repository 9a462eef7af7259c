"""Inspects images in the graph: reads and decodes each once, and leaves what it found where a killed run is continued.

Images are read and decoded in batches, as many at a time as there are decoders; these are processes of their own, so
that no image takes the build along. What was found is written beside the versions about every thousand images and at
the end of a bundle.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.decoding import pool_of
from beam_jobs.elements import Finding, Item, Reject, Row, outcome
from beam_jobs.errors import crossing
from beam_jobs.findings import write_findings
from beam_jobs.reading import Reader
from beam_jobs.settings import Settings
from pipeline.images.guarded import TOGETHER, Decoder, Decoders
from pipeline.images.policy import ReadError

_BATCH_BYTES = 4 << 20  # decoded together, but for a larger image by itself
_FINDINGS = 1_000  # images a part file; what a kill can cost a worker

Found = tuple[Item, Finding | ReadError]


class Inspect(beam.DoFn):
    """Inspects images. Item → row; tagged `rejects`: reject."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        self._reader = Reader(self._settings.source)
        build = self._settings.build
        self._decoders = Decoders(self._settings.decoders, pool_of(build.policy, build.budget))

    def teardown(self) -> None:
        self._decoders.close()
        self._reader.close()

    def start_bundle(self) -> None:
        self._waiting: list[Item] = []
        self._under_way: collections.deque[Future[list[Found]]] = collections.deque()
        self._found: list[Finding] = []

    def process(self, item: Item) -> Iterator[Any]:
        self._waiting.append(item)
        if len(self._waiting) == TOGETHER:
            self._submit()
            yield from self._outcomes(leave=self._decoders.ahead)

    def finish_bundle(self) -> Iterator[Any]:
        self._submit()
        yield from map(late, self._outcomes(leave=0))
        self._remember(at_least=1)

    def _submit(self) -> None:
        self._under_way.append(self._decoders.submit(self._inspect, self._waiting))
        self._waiting = []

    def _inspect(self, decoder: Decoder, items: Sequence[Item]) -> list[Found]:
        """Inspects a batch; in a thread."""
        found: list[Found] = []
        batch: list[tuple[Item, bytes]] = []

        def flush() -> None:
            for (item, data), result in zip(batch, decoder.inspect([data for _, data in batch]), strict=True):
                found.append((item, Finding(uri=item.uri, stamp=item.stamp, size=len(data), result=result)))
            batch.clear()

        for item, data in zip(items, self._reader.read(items), strict=True):
            if isinstance(data, ReadError):
                found.append((item, data))
                continue
            if batch and len(data) + sum(len(other) for _, other in batch) > _BATCH_BYTES:
                flush()
            batch.append((item, data))
        flush()
        return found

    def _outcomes(self, *, leave: int) -> Iterator[Any]:
        """Yields what batches gave until only so many are left under way."""
        while len(self._under_way) > leave:
            for item, finding in self._under_way.popleft().result():
                if isinstance(finding, ReadError):
                    # Not remembered: reading may work next time although the stamp is the same.
                    result: Row | Reject = Reject(item=item, code=finding.code.value, detail=finding.detail)
                else:
                    self._found.append(finding)
                    result = outcome(item, finding)
                yield beam.pvalue.TaggedOutput("rejects", result) if isinstance(result, Reject) else result
            self._remember(at_least=_FINDINGS)

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
