"""Keeps downloads in a content-addressed store, which survives restarts: nothing in it is fetched twice.

A local directory holds packs (packs.py), a bucket objects (objects.py). Local stores from before
there were packs hold objects, too: they are read where they are, and only what is new goes into packs.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from beam_jobs.download.entry import Download, Writer
from beam_jobs.download.objects import Objects
from beam_jobs.download.pack_writer import PackWriter
from beam_jobs.download.packs import Packs, packs_of
from beam_jobs.download.policy import DownloadPolicy
from pipeline.format import storage

_LOOKUP_THREADS = 16


def is_url(uri: str) -> bool:
    """Says whether a URI's bytes come out of the download store."""
    return uri.lower().startswith(("http://", "https://"))


@dataclasses.dataclass(frozen=True)
class DownloadStore:
    """Keeps downloads at `root`, a local directory or bucket path (gs://…). Picklable; many processes may share one."""

    root: str

    @property
    def is_remote(self) -> bool:
        """Says whether each question takes a bucket's answering time."""
        return storage.is_remote(self.root)

    def refresh(self) -> None:
        """Takes note of what other processes have added, for `find`."""
        self._packs.refresh()

    def find(self, url: str) -> Download | None:
        """Returns what came of `url` as of the last `refresh` here; None if it was never tried, or is damaged."""
        return self._packs.find(url) or self._objects.find(url)

    def lookup(self, url: str) -> Download | None:
        """Returns what `find` returns, or else what another process has added since; None if there is neither."""
        found = self.find(url)
        if found is None and self._packs.refresh():
            found = self._packs.find(url)
        return found

    def has_blob(self, download: Download) -> bool:
        """Says whether the bytes are there, in full; after a power failure an entry may have outlived its blob."""
        return self._packs.place(download.sha256) is not None or self._objects.has_blob(download)

    def read(self, sha256: str) -> bytes:
        """Reads the bytes with this digest; OSError if they are absent or damaged."""
        place = self._packs.place(sha256)
        if place is None and self._packs.refresh():
            place = self._packs.place(sha256)
        if place is not None:
            path, data = self._packs.path(place[0]), self._packs.read(place)
        else:
            path = self._objects.blob_path(sha256)
            data = storage.read(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise OSError(f"{path} is damaged; delete it and run the same command again")
        return data

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Opens a `Writer` that stores downloads while the context lasts."""
        if self.is_remote:
            yield self._objects
        else:
            with closing(PackWriter(self.root)) as writer:
                yield writer

    @property
    def _objects(self) -> Objects:
        return Objects(self.root)

    @property
    def _packs(self) -> Packs:
        # Of a bucket's path there is no local directory, so no packs either.
        return packs_of(self.root)


def pending(urls: Iterable[str], store: DownloadStore, policy: DownloadPolicy) -> list[str]:
    """Lists the distinct URLs still to be downloaded: neither stored, nor failed under this very `FetchPolicy`."""
    policy_digest = policy.fetch.digest()
    store.refresh()

    def is_pending(url: str) -> bool:
        found = store.find(url)
        if found is None:
            return True
        if found.code is None:
            return not store.has_blob(found)
        return policy.retry_failed or found.policy != policy_digest

    distinct = list(dict.fromkeys(urls))
    if not store.is_remote:
        return [url for url in distinct if is_pending(url)]
    with concurrent.futures.ThreadPoolExecutor(_LOOKUP_THREADS) as threads:  # a bucket answers in 50 ms
        return [url for url, todo in zip(distinct, threads.map(is_pending, distinct), strict=True) if todo]
