"""Downloads in the graph: what earlier runs found counts, every other URL is asked for once, within its host's limit.

A host's URLs are divided into as many shares as it may be asked for at a time, and each share asks for one after the
other: so the limit holds over all workers, which know nothing of each other (but for hosts that only redirects lead to,
where it holds for each worker). What came of a batch is noted as it comes: a bundle that runs again fetches nothing
twice, and a killed build loses a second's work.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.coders import by_uri, keyed_item
from beam_jobs.corrections import Corrections
from beam_jobs.download.entry import Download
from beam_jobs.download.loop import download
from beam_jobs.download.schedule import host_of
from beam_jobs.download.store import DownloadStore, is_url, settled
from beam_jobs.elements import Item, Reject
from beam_jobs.errors import crossing
from beam_jobs.settings import Settings
from beam_jobs.sources import RemoteSource

_HOST_GROUPS = 256  # bounds how many workers can download at once
_BATCH = 100_000  # URLs under way in a worker, at their hosts or waiting; its last hosts are waited for
_NOTED, _NOTED_SECONDS = 64, 1.0  # downloads, or time, until they are noted

Share = tuple[int, int]  # group of hosts; number of the share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetched:
    """Holds the items that can be read, and the rejects of those that could not be downloaded."""

    items: beam.PCollection[Item]
    rejects: tuple[beam.PCollection[Reject], ...]

    def named_rejects(self) -> dict[str, beam.PCollection[Reject]]:
        """Gives each part of the rejects a name, for the steps that take it."""
        return {f"Rejects{number}": part for number, part in enumerate(self.rejects)}


class PartUrls(beam.DoFn):
    """Separates what has to be downloaded; not what is left out anyway. Item → item; tagged `urls`: (URL, item)."""

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections

    def process(self, item: Item) -> Iterator[Any]:
        wanted = is_url(item.uri) and not self._corrections.excludes(item.uri)
        yield beam.pvalue.TaggedOutput("urls", by_uri(item)) if wanted else item


def list_notes(_: bytes, store: DownloadStore) -> list[str]:
    """Lists what earlier runs noted. Nothing → paths."""
    with crossing(store.root):
        return store.notes()


def read_notes(path: str, store: DownloadStore) -> Iterator[tuple[str, bytes]]:
    """Reads what came of URLs. Path → (URL, download)."""
    for found in store.read_note(path):
        yield found.url, found.to_bytes()


def ended(item: Item, found: Download) -> Any:
    """Returns what a step outputs for an item when it is known what came of it."""
    item = dataclasses.replace(item, stamp=found.stamp)
    if found.code is None:
        return item
    return beam.pvalue.TaggedOutput("rejects", Reject(item=item, code=found.code.value, detail=found.detail))


class Recall(beam.DoFn):
    """Recalls downloads. (URL, {items, found}) → item; tagged `rejects`: reject, `missing`: item to download."""

    def __init__(self, store: DownloadStore, settings: Settings) -> None:
        self._store = store
        self._policy = settings.build.download

    def process(self, element: tuple[str, Mapping[str, Iterable[bytes]]]) -> Iterator[Any]:
        _, sides = element
        for packed in sides["items"]:
            item = keyed_item(packed)
            found = settled(map(Download.from_bytes, sides["found"]), self._store, self._policy)
            yield ended(item, found) if found else beam.pvalue.TaggedOutput("missing", item)


def _number(text: str, count: int) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def by_host(item: Item, shares: int) -> tuple[Share, Item]:
    """Sends an item where its host's share is downloaded. Item → (share, item)."""
    return (_number(host_of(item.uri), _HOST_GROUPS), _number(item.uri, shares)), item


class FetchAll(beam.DoFn):
    """Downloads shares of hosts, all those of a bundle together. (share, items) → item; tagged `rejects`: reject."""

    def __init__(self, store: DownloadStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def setup(self) -> None:
        # For all bundles of this worker: each share of a dead host would find out anew, which takes minutes.
        self._failures: dict[str, int] = {}

    def start_bundle(self) -> None:
        self._items: dict[str, Item] = {}
        self._shares: dict[int, set[int]] = collections.defaultdict(set)

    def process(self, element: tuple[Share, Iterable[Item]]) -> Iterator[Any]:
        (group, share), items = element
        for item in items:
            self._shares[group].add(share)
            self._items[item.uri] = item
            if len(self._items) == _BATCH:
                yield from self._fetch()
                self._shares[group].add(share)

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(late, self._fetch())

    def _at_once(self, host: str) -> int:
        """Counts the downloads that a host may be asked for at a time: one for each of its shares that are here."""
        return len(self._shares[_number(host, _HOST_GROUPS)])

    def _fetch(self) -> Iterator[Any]:
        items, store, policy = self._items, self._store, self._settings.build.download
        if not items:
            return
        batch = hashlib.sha256("\n".join([self._settings.run, *sorted(items)]).encode("utf-8", "surrogatepass"))
        name = batch.hexdigest()[:16]
        with crossing(store.root):
            # Of this very run: failures count, too.
            before = {found.url: found for path in store.notes(batch=name) for found in store.read_note(path)}
            yield from (ended(items[url], found) for url, found in before.items())
            noted: list[Download] = []
            since = time.monotonic()
            try:
                left = [url for url in items if url not in before]
                for several in download(left, store, policy, limit=self._at_once, failures=self._failures):
                    noted += several
                    if len(noted) >= _NOTED or (noted and time.monotonic() - since > _NOTED_SECONDS):
                        store.note(noted, batch=name)
                        noted, since = [], time.monotonic()
                    yield from (ended(items[found.url], found) for found in several)
            finally:
                if noted:
                    store.note(noted, batch=name)
        self.start_bundle()


def downloaded(items: beam.PCollection[Item], settings: Settings) -> Fetched:
    """Adds the steps that download what the source's URLs lead to; none where it has no URLs."""
    source = settings.source
    if not isinstance(source, RemoteSource):
        return Fetched(items=items, rejects=())
    parted = items | "PartUrls" >> beam.ParDo(PartUrls(settings.build.corrections)).with_output_types(
        Item, urls=tuple[str, bytes]
    ).with_outputs("urls", main="here")
    known = (
        items.pipeline
        | "StartDownloads" >> beam.Impulse()
        | "ListDownloads" >> beam.FlatMap(list_notes, source.store).with_output_types(str)
        | "SpreadDownloads" >> beam.Reshuffle()
        | "ReadDownloads" >> beam.FlatMap(read_notes, source.store).with_output_types(tuple[str, bytes])
    )
    recalled = (
        {"items": parted.urls, "found": known}
        | "JoinDownloads" >> beam.CoGroupByKey()
        | "RecallDownloads"
        >> beam.ParDo(Recall(source.store, settings))
        .with_output_types(Item, rejects=Reject, missing=Item)
        .with_outputs("rejects", "missing", main="items")
    )
    fetched = (
        recalled.missing
        | "ByHost" >> beam.Map(by_host, settings.build.download.fetch.per_host).with_output_types(tuple[Share, Item])
        | "GroupByHost" >> beam.GroupByKey()
        | "Download"
        >> beam.ParDo(FetchAll(source.store, settings))
        .with_output_types(Item, rejects=Reject)
        .with_outputs("rejects", main="items")
    )
    return Fetched(
        items=(parted.here, recalled.items, fetched.items) | "Fetched" >> beam.Flatten(),
        rejects=(recalled.rejects, fetched.rejects),
    )
