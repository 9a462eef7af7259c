"""Finds what earlier runs know of the images, so that nothing is decoded twice: killed runs, and published versions.

Killed runs leave part files of findings (`rows-*.msgpack`), published versions their tables (`rows-*.parquet`). Both
are joined with the listing by URI; a finding under another stamp does not count. What cannot be read costs decoding.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs import root
from beam_jobs.coders import finding_bytes, finding_of, pack, unpack
from beam_jobs.elements import Finding, Item, Listing, Reject, Row, outcome
from beam_jobs.errors import crossing
from beam_jobs.settings import Settings
from beam_jobs.version import table
from pipeline.format import storage

_FORMAT = "findings 1"  # first in every part file
_SUFFIX = ".msgpack"


def write_findings(findings: Sequence[Finding], folder: str) -> None:
    """Writes a part file under a name of its own: a bundle that runs twice leaves two equal files. Raises OSError."""
    storage.make_folder(folder)
    content = pack((_FORMAT, [finding_bytes(finding) for finding in findings]))
    storage.write_atomically(storage.join(folder, f"rows-{uuid.uuid4().hex}{_SUFFIX}"), content, shared=True)


def read_findings(path: str) -> list[Finding]:
    """Reads a part file; of a damaged one, or one that has gone, nothing."""
    try:
        form, packed = unpack(storage.read(path))
        return [finding_of(one) for one in packed] if form == _FORMAT else []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _names(folder: str) -> list[str]:
    try:
        return [entry.name for entry in storage.list_folder(folder) if not entry.is_folder]
    except OSError:
        return []


def known_files(_: None, listing: Listing, settings: Settings) -> Iterator[str]:
    """Lists the files that hold findings: of killed runs, and of the newest version. Nothing → paths."""
    if listing.published:
        return
    with crossing(settings.build.output):
        for name in _names(settings.findings):
            if name.endswith(_SUFFIX):
                yield storage.join(settings.findings, name)
        for version in root.versions(settings.build.output)[-1:]:
            directory = root.version_directory(settings.build.output, version)
            for name in _names(directory):
                if table.is_table(name):
                    yield storage.join(directory, name)


def read_known(path: str, settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Reads findings. Path → (URI, finding)."""
    found = read_findings(path) if path.endswith(_SUFFIX) else table.read_table(path, inspection=settings.inspection)
    for finding in found:
        yield finding.uri, finding_bytes(finding)


def by_uri(item: Item) -> tuple[str, bytes]:
    """Keys an item for the join, in which Beam would pickle other values than bytes. Item → (URI, item)."""
    return item.uri, pack((item.label, item.split, item.stamp))


class Recall(beam.DoFn):
    """Recalls what is known. (URI, {items, known}) → row; tagged `rejects`: reject, `unknown`: item to inspect."""

    def process(self, element: tuple[str, Mapping[str, Iterable[bytes]]]) -> Iterator[Any]:
        uri, sides = element
        for packed in sides["items"]:
            label, split, stamp = unpack(packed)
            item = Item(uri=uri, label=label, split=split, stamp=stamp)
            findings = (finding_of(known) for known in sides["known"])
            finding = next((known for known in findings if known.stamp == stamp), None)
            if finding is None:
                yield beam.pvalue.TaggedOutput("unknown", item)
                continue
            found = outcome(item, finding)
            yield beam.pvalue.TaggedOutput("rejects", found) if isinstance(found, Reject) else found


def recalled(
    items: beam.PCollection[Item], listing: beam.PCollection[Listing], settings: Settings
) -> beam.pvalue.DoOutputsTuple:
    """Adds the join of the items with what is known: outputs `rows`, `rejects`, `unknown`."""
    known = (
        items.pipeline
        | "StartKnown" >> beam.Create([None])
        | "ListKnown" >> beam.FlatMap(known_files, beam.pvalue.AsSingleton(listing), settings).with_output_types(str)
        | "SpreadKnown" >> beam.Reshuffle()
        | "ReadKnown" >> beam.FlatMap(read_known, settings).with_output_types(tuple[str, bytes])
    )
    keyed = items | "ByUri" >> beam.Map(by_uri).with_output_types(tuple[str, bytes])
    return (
        {"items": keyed, "known": known}
        | "JoinKnown" >> beam.CoGroupByKey()
        | "Recall"
        >> beam.ParDo(Recall())
        .with_output_types(Row, rejects=Reject, unknown=Item)
        .with_outputs("rejects", "unknown", main="rows")
    )
