"""Finds what earlier runs know of the images, so that nothing is decoded twice: killed runs, and published versions.

Killed runs leave part files of findings (parts.py), published versions their tables (`rows-*.parquet`). Both
are joined with the listing by URI; a finding under another stamp does not count. What cannot be read costs decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import parts, root
from beam_jobs.coders import by_uri, finding_bytes, finding_of, keyed_item
from beam_jobs.elements import Finding, Item, Listing, Reject, Row, outcome
from beam_jobs.errors import crossing
from beam_jobs.findings import read_findings
from beam_jobs.settings import Settings
from beam_jobs.version import table
from pipeline.format import storage
from pipeline.format.rows import is_table
from pipeline.images.policy import Reject as Refusal


def _files(settings: Settings) -> Iterator[str]:
    """Lists the files that hold findings: of killed runs, and of the newest version."""
    yield from parts.list_parts(settings.findings)
    for version in root.versions(settings.build.output)[-1:]:
        directory = root.version_directory(settings.build.output, version)
        yield from (storage.join(directory, name) for name in table.tables(directory))


def _read(path: str, settings: Settings) -> Iterable[Finding]:
    if is_table(path.rpartition("/")[2]):
        return table.read_table(path, inspection=settings.inspection)
    return read_findings(path)


def anything(settings: Settings) -> bool:
    """Says whether earlier runs have left findings."""
    return any(True for _ in _files(settings))


def every_finding(settings: Settings) -> Iterator[Finding]:
    """Yields all that is known, in this process."""
    for path in _files(settings):
        yield from _read(path, settings)


def known_files(_: bytes, listing: Listing | None, settings: Settings) -> Iterator[str]:
    """Lists the files that hold findings, if there is anything to do. Nothing → paths."""
    if listing and not listing.published:
        with crossing(settings.build.output):
            yield from _files(settings)


def read_known(path: str, settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Reads findings. Path → (URI, finding)."""
    for finding in _read(path, settings):
        yield finding.uri, finding_bytes(finding)


class Recall(beam.DoFn):
    """Recalls what is known. (URI, {items, known}) → row; tagged `rejects`: reject, `unknown`: item to inspect."""

    def process(self, element: tuple[str, Mapping[str, Iterable[bytes]]]) -> Iterator[Any]:
        _, sides = element
        for packed in sides["items"]:
            item = keyed_item(packed)
            findings = [known for known in map(finding_of, sides["known"]) if known.stamp == item.stamp]
            # One that could be decoded but not encoded anew has two.
            findings.sort(key=lambda known: isinstance(known.result, Refusal), reverse=True)
            finding = next(iter(findings), None)
            if finding is None:
                yield beam.pvalue.TaggedOutput("unknown", item)
                continue
            found = outcome(item, finding)
            yield beam.pvalue.TaggedOutput("rejects", found) if isinstance(found, Reject) else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recalled:
    """Holds what is known of the images, by where it comes from, and the items of which nothing is."""

    rows: Mapping[str, beam.PCollection[Row]]
    rejects: tuple[beam.PCollection[Reject], ...]
    unknown: beam.PCollection[Item]


def recalled(items: beam.PCollection[Item], listing: beam.PCollection[Listing], settings: Settings) -> Recalled:
    """Adds the join of the items with what is known; none where nothing can be."""
    if not settings.recalls:
        return Recalled(rows={}, rejects=(), unknown=items)
    one = beam.pvalue.AsSingleton(listing, default_value=None)
    known = (
        items.pipeline
        | "StartKnown" >> beam.Impulse()
        | "ListKnown" >> beam.FlatMap(known_files, one, settings).with_output_types(str)
        | "SpreadKnown" >> beam.Reshuffle()
        | "ReadKnown" >> beam.FlatMap(read_known, settings).with_output_types(tuple[str, bytes])
    )
    keyed = items | "ByUri" >> beam.Map(by_uri).with_output_types(tuple[str, bytes])
    found = (
        {"items": keyed, "known": known}
        | "JoinKnown" >> beam.CoGroupByKey()
        | "Recall"
        >> beam.ParDo(Recall())
        .with_output_types(Row, rejects=Reject, unknown=Item)
        .with_outputs("rejects", "unknown", main="rows")
    )
    return Recalled(rows={"Known": found.rows}, rejects=(found.rejects,), unknown=found.unknown)
