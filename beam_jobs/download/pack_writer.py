"""Appends downloads to pack files; see packs.py for what they hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

from beam_jobs.download.entry import Body, Download
from beam_jobs.download.packs import BODIES_SUFFIX, KEY_DIGITS, LINES_SUFFIX, PACKS, key_of, packs_of
from pipeline.images.policy import RejectCode

_MAX_PACK_BYTES = 256 << 20  # what a damaged file costs at most


class _Appended:
    """Writes a file that is only appended to."""

    def __init__(self, path: str) -> None:
        self._number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self.size = 0

    def append(self, parts: Iterable[bytes | memoryview]) -> int:
        """Appends all parts and returns where they begin; what a failure leaves is overwritten the next time."""
        start = end = self.size
        for part in parts:
            view = memoryview(part)
            while view:
                written = os.pwrite(self._number, view, end)
                view, end = view[written:], end + written
        self.size = end
        return start

    def close(self) -> None:
        os.close(self._number)


def _line(download: Download, body: str, **place: str | int) -> bytes:
    return b"%s%s %s\n" % (key_of(download.url).encode(), body[:KEY_DIGITS].encode(), download.to_json(**place))


class PackWriter:
    """Implements `Writer` by pack files, which it opens when it gets the first download."""

    def __init__(self, root: str) -> None:
        self._packs = packs_of(root)
        self._packs.refresh()  # what others stored is not stored again
        self._root = root
        self._lock = threading.Lock()
        self._name = ""
        self._files: tuple[_Appended, _Appended] | None = None
        self._own: dict[str, tuple[str, int, int]] = {}  # digest → place

    def put(self, url: str, body: Body, *, final_url: str) -> Download:
        """Implements `Writer.put`."""
        download = Download(url=url, sha256=body.sha256, size=body.size, final_url=final_url)
        with self._lock:
            place = self._own.get(download.sha256) or self._packs.place(download.sha256)
            lines, bodies = self._open()
            if place is None:
                place = self._own[download.sha256] = (self._name, bodies.append(body.parts()), body.size)
            lines.append([_line(download, download.sha256, pack=place[0], offset=place[1])])
        return download

    def put_failure(self, url: str, *, code: RejectCode, detail: str, policy: str) -> Download:
        """Implements `Writer.put_failure`."""
        download = Download(url=url, code=code, detail=detail, policy=policy)
        with self._lock:
            lines, _ = self._open()
            lines.append([_line(download, "-" * KEY_DIGITS)])
        return download

    def close(self) -> None:
        for file in self._files or ():
            file.close()
        self._files = None

    def _open(self) -> tuple[_Appended, _Appended]:
        if self._files and self._files[1].size >= _MAX_PACK_BYTES:
            self.close()
        if not self._files:
            directory = os.path.join(self._root, PACKS)
            os.makedirs(directory, exist_ok=True)
            self._name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
            stem = os.path.join(directory, self._name)
            self._files = _Appended(stem + LINES_SUFFIX), _Appended(stem + BODIES_SUFFIX)
        return self._files
