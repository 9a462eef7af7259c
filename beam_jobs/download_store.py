"""The content-addressed store of downloads, which survives restarts: nothing in it is fetched twice.

    STORE/blobs/ab/abcd…            bytes, named by their sha256: one copy however many URLs lead to it
    STORE/urls/12/1234….json        what came of one URL (named by the URL's sha256): a blob or a failure

Both are written under a temporary name and renamed, the blob first, so a URL's entry never points at half a blob.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from typing import IO

from beam_jobs import files
from beam_jobs.images import RejectCode

_CHUNK_BYTES = 1 << 20


def is_url(uri: str) -> bool:
    """Whether a URI's bytes come out of the download store."""
    return uri.lower().startswith(("http://", "https://"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """What came of one URL: either the digest and size of its bytes, or the reason why there are none.

    Attributes:
      url: as listed.
      sha256: hex digest of the bytes; "" after a failure.
      size: bytes.
      final_url: where the redirects led.
      code: why it failed, or None.
      detail: what exactly happened.
      policy: digest of the limits under which it failed; other limits deserve another try.
    """

    url: str
    sha256: str = ""
    size: int = 0
    final_url: str = ""
    code: RejectCode | None = None
    detail: str = ""
    policy: str = ""

    def __post_init__(self) -> None:
        if bool(self.sha256) == (self.code is not None):
            raise ValueError(f"a download has either a sha256 or a failure code, got {self}")

    @property
    def stamp(self) -> str:
        """For `SourceItem.stamp`: equal stamps, equal bytes."""
        return f"failed:{self.code.value}" if self.code else f"sha256:{self.sha256}"


@dataclasses.dataclass(frozen=True)
class DownloadStore:
    """A store at `root`, a local directory or a bucket path (gs://…). Picklable; many processes may share one."""

    root: str

    def lookup(self, url: str) -> Download | None:
        """What came of `url`, or None if it has never been tried (or its entry is damaged)."""
        try:
            with files.open_file(self._entry_path(url)) as file:
                data = json.loads(file.read())
            data["code"] = RejectCode(data["code"]) if data["code"] else None
            found = Download(**data)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found.url == url else None

    def has_blob(self, download: Download) -> bool:
        """Whether the bytes are there, in full; after a power failure an entry may have outlived its blob."""
        try:
            size, _ = files.file_stamp(self._blob_path(download.sha256))
        except OSError:
            return False
        return size == download.size

    def put(self, url: str, body: IO[bytes], *, final_url: str) -> Download:
        """Stores the whole of `body` (seekable) as the bytes of `url`."""
        digest = hashlib.sha256()
        body.seek(0)
        while chunk := body.read(_CHUNK_BYTES):
            digest.update(chunk)
        download = Download(url=url, sha256=digest.hexdigest(), size=body.tell(), final_url=final_url)
        if not self.has_blob(download):
            body.seek(0)
            files.write_atomically(self._blob_path(download.sha256), body)
        self._write_entry(download)
        return download

    def put_failure(self, url: str, *, code: RejectCode, detail: str, policy: str) -> Download:
        """Remembers that a URL failed under the limits that `policy` identifies."""
        download = Download(url=url, code=code, detail=detail, policy=policy)
        self._write_entry(download)
        return download

    def read(self, sha256: str) -> bytes:
        """The bytes with this digest; OSError if they are absent or damaged."""
        path = self._blob_path(sha256)
        with files.open_file(path) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise OSError(f"{path} is damaged; delete it and run the same command again")
        return data

    def _write_entry(self, download: Download) -> None:
        data = dataclasses.asdict(download)
        data["code"] = download.code.value if download.code else None
        text = json.dumps(data, ensure_ascii=False, sort_keys=True) + "\n"
        files.write_atomically(self._entry_path(download.url), io.BytesIO(text.encode("utf-8", "surrogatepass")))

    def _blob_path(self, sha256: str) -> str:
        return f"{self.root}/blobs/{sha256[:2]}/{sha256}"

    def _entry_path(self, url: str) -> str:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.root}/urls/{name[:2]}/{name}.json"
