"""Reads images of any source in order: from a store many at once, from a disk one after the other, announced before."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Iterable, Iterator, Sequence

from beam_jobs.sources import AnnouncedSource, RemoteSource, Source, SourceItem
from pipeline.format import storage
from pipeline.images.policy import ReadError

_READERS = 16  # reads under way at once in a worker: hides a store's latency
_STORES = tuple(f"{scheme}://" for scheme in storage.EXTRAS)
# Some megabytes of photos: enough for a disk to work without a pause, little enough to stay in memory until it is read.
_DEPTH = 32


def read_ahead(items: Iterable[SourceItem], source: Source) -> Iterator[SourceItem]:
    """Yields items; announces each, to a source that wants it, `_DEPTH` images before its turn."""
    if not isinstance(source, AnnouncedSource):
        yield from items
        return
    now, soon = itertools.tee(items)
    for item in itertools.islice(soon, _DEPTH):
        source.announce(item)
    for item in now:
        for later in itertools.islice(soon, 1):
            source.announce(later)
        yield item


class Reader:
    """Reads images for one worker."""

    def __init__(self, source: Source) -> None:
        self._source = source
        places = [str(getattr(source, "root", "")), source.store.root if isinstance(source, RemoteSource) else ""]
        self._in_store = any(place.startswith(_STORES) for place in places)
        self._pool = concurrent.futures.ThreadPoolExecutor(_READERS)

    def read(self, items: Sequence[SourceItem]) -> Iterator[bytes | ReadError]:
        """Yields each item's bytes, or why they cannot be read; for any number of threads."""
        if not self._in_store and not any(item.uri.startswith(_STORES) for item in items):
            yield from map(self._read, read_ahead(items, self._source))
            return
        # A few more than are under way: more would only fill the memory.
        waiting: list[concurrent.futures.Future[bytes | ReadError]] = []
        for item in items:
            waiting.append(self._pool.submit(self._read, item))
            if len(waiting) > 2 * _READERS:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _read(self, item: SourceItem) -> bytes | ReadError:
        try:
            return self._source.read(item)
        except ReadError as error:
            return error
