"""Stores downloads as objects of a bucket, where nothing can be appended; old local stores are laid out alike.

    STORE/blobs/ab/abcd…            bytes, named by their sha256: one copy however many URLs lead to it
    STORE/urls/12/1234….json        what came of one URL (named by the URL's sha256): a blob or a failure

Both appear whole or not at all, the blob first, so a URL's entry never points at half a blob.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from beam_jobs.download.entry import Body, Download
from pipeline.format import storage
from pipeline.images.policy import RejectCode


@dataclasses.dataclass(frozen=True)
class Objects:
    """Reads and writes objects under `root`, a bucket path (gs://…); only reads an older store's local directory."""

    root: str

    def find(self, url: str) -> Download | None:
        """Returns what came of `url`, or None if it has never been tried (or its entry is damaged)."""
        try:
            found = Download.from_json(json.loads(storage.read(self._entry_path(url))))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found.url == url else None

    def has_blob(self, download: Download) -> bool:
        """Says whether the bytes are there, in full; after a power failure an entry may have outlived its blob."""
        try:
            size, _ = storage.stamp(self.blob_path(download.sha256))
        except OSError:
            return False
        return size == download.size

    def put(self, url: str, body: Body, *, final_url: str) -> Download:
        """Implements `Writer.put`."""
        download = Download(url=url, sha256=body.sha256, size=body.size, final_url=final_url)
        if not self.has_blob(download):
            with storage.whole_file(self.blob_path(download.sha256)) as file:
                file.writelines(body.parts())
        self._write_entry(download)
        return download

    def put_failure(self, url: str, *, code: RejectCode, detail: str, policy: str) -> Download:
        """Implements `Writer.put_failure`."""
        download = Download(url=url, code=code, detail=detail, policy=policy)
        self._write_entry(download)
        return download

    def blob_path(self, sha256: str) -> str:
        return f"{self.root}/blobs/{sha256[:2]}/{sha256}"

    def _write_entry(self, download: Download) -> None:
        storage.write_atomically(self._entry_path(download.url), download.to_json() + b"\n")

    def _entry_path(self, url: str) -> str:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.root}/urls/{name[:2]}/{name}.json"
