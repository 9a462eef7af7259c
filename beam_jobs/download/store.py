"""Keeps downloads in a content-addressed store, on a disk or in a bucket, where runs to come find them again.

    STORE/blobs/ab/abcd…                bytes, named by their sha256: one copy however many URLs lead to it
    STORE/found/BATCH-64-….msgpack      what came of some URLs (parts.py): a blob, or a failure

Everything appears whole or not at all, the blob first, so what points at a blob is never there before it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence

from beam_jobs import parts
from beam_jobs.download.entry import Body, Download
from beam_jobs.download.policy import DownloadPolicy
from pipeline.format import storage

_FORM = "downloads 1"


def is_url(uri: str) -> bool:
    """Says whether a URI's bytes come out of the download store."""
    return uri.lower().startswith(("http://", "https://"))


@functools.lru_cache(maxsize=1024)
def _made(folder: str) -> None:
    storage.make_folder(folder)


@dataclasses.dataclass(frozen=True)
class DownloadStore:
    """Keeps downloads at `root`, a local directory or a path in a store. Picklable; many processes may share one."""

    root: str

    def put(self, body: Body) -> None:
        """Stores the bytes of an answer, unless they are there. Raises OSError."""
        path = self._blob(body.sha256)
        if self._size(path) == body.size:
            return
        _made(path.rpartition("/")[0])
        with storage.whole_file(path, shared=True) as file:
            file.writelines(body.parts())

    def has_blob(self, download: Download) -> bool:
        """Says whether the bytes are there, in full; after a power failure what points at a blob may outlive it."""
        return self._size(self._blob(download.sha256)) == download.size

    def read(self, sha256: str) -> bytes:
        """Reads the bytes with this digest; OSError if they are absent or damaged."""
        path = self._blob(sha256)
        data = storage.read(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise OSError(f"{path} is damaged; delete it and run the same command again")
        return data

    def note(self, downloads: Sequence[Download], *, batch: str) -> None:
        """Notes what came of some URLs, under the name of the batch that they were downloaded in. Raises OSError."""
        found = [download.to_bytes() for download in downloads]
        parts.write_part(found, self.found, form=_FORM, prefix=batch)

    def notes(self, *, batch: str = "") -> list[str]:
        """Lists the paths of what was noted, by all batches or one."""
        return parts.list_parts(self.found, prefix=f"{batch}-" if batch else "")

    @staticmethod
    def read_note(path: str) -> list[Download]:
        """Reads what `note` wrote; nothing of a damaged one, or one that has gone."""
        try:
            return [Download.from_bytes(entry) for entry in parts.read_part(path, form=_FORM)]
        except (ValueError, TypeError):
            return []

    @property
    def found(self) -> str:
        """Names the folder of what came of URLs."""
        return storage.join(self.root, "found")

    def _blob(self, sha256: str) -> str:
        return storage.join(self.root, "blobs", sha256[:2], sha256)

    @staticmethod
    def _size(path: str) -> int | None:
        try:
            return storage.stamp(path)[0]
        except OSError:
            return None


def settled(found: Iterable[Download], store: DownloadStore, policy: DownloadPolicy) -> Download | None:
    """Returns what counts of all that ever came of one URL; None if it has to be downloaded, again or at last.

    Args:
      found: in any order.
      store: holds the bytes; a bucket, which loses none, is not asked for each unless failures are retried.
      policy: a failure counts only under the very `FetchPolicy` that it happened under.
    """
    every = sorted(found, key=lambda download: (download.sha256, download.detail))
    asks = policy.retry_failed or not storage.is_remote(store.root)
    for download in every:
        if download.code is None and (not asks or store.has_blob(download)):
            return download
    if policy.retry_failed:
        return None
    digest = policy.fetch.digest()
    return next((download for download in every if download.code and download.policy == digest), None)
