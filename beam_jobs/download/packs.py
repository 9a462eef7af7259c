"""Reads downloads from a local store's pack files, because a file an image takes as long to create as to receive.

    STORE/packs/NAME.pack       bodies, one behind the other, each once
    STORE/packs/NAME.jsonl      a line for each URL: what came of it, and which part of which pack is its body

Each writer appends to files of its own, the body first, then its line, so a kill at any moment loses at most what was
under way: a body without a line is passed over, and so is a line without its end. A line starts with two keys, 16 hex
digits each: of the URL, and of the body (dashes for a failure). Later lines count more than earlier ones.
"""

from __future__ import annotations

import array
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from beam_jobs.download.entry import Download

PACKS = "packs"
LINES_SUFFIX = ".jsonl"
BODIES_SUFFIX = ".pack"
KEY_DIGITS = 16
_LINE_BYTES = 1 << 10  # most lines are shorter
_OPEN_FILES = 32
_OFFSET_BITS = 40


def key_of(url: str) -> str:
    """Returns the key of a URL, the beginning of its digest; that of a body is the beginning of its digest, too."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:KEY_DIGITS]


def _keys(line: bytes) -> tuple[int, int | None]:
    """Parses the keys at a line's beginning: of the URL; of the body, if there is one. Raises ValueError."""
    url, body = line[:KEY_DIGITS], line[KEY_DIGITS : 2 * KEY_DIGITS]
    return int(url, 16), None if body == b"-" * KEY_DIGITS else int(body, 16)


class _OpenFile:
    """Keeps a file open until nobody uses it any more, because another thread may be reading."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@functools.lru_cache(_OPEN_FILES)
def _opened(path: str) -> _OpenFile:
    return _OpenFile(path)


def _read(path: str, offset: int, count: int) -> bytes:
    file = _opened(path)
    return os.pread(file.number, count, offset)


class _Table:
    """Maps keys to places of lines, in 16 bytes an entry: a table of URLs may have millions of rows."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._places = np.empty(0, np.uint64)

    def add(self, keys: array.array[int], places: array.array[int]) -> None:
        all_keys = np.concatenate([self._keys, np.frombuffer(keys, np.uint64)])
        order = np.argsort(all_keys, kind="stable")
        self._places = np.concatenate([self._places, np.frombuffer(places, np.uint64)])[order]
        self._keys = all_keys[order]

    def find(self, key: str) -> list[int]:
        """Lists the places noted for a key, the latest first."""
        number = np.uint64(int(key, 16))
        first = self._keys.searchsorted(number)
        if first == len(self._keys) or self._keys[first] != number:
            return []
        last = self._keys.searchsorted(number, side="right")
        return [int(place) for place in self._places[first:last][::-1]]


class Packs:
    """Finds what a store's packs hold; for use by many threads. `refresh` takes note of what others added."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, PACKS)
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._known: dict[str, int] = {}  # name → bytes of its lines that are in the tables
        self._urls, self._bodies = _Table(), _Table()

    def refresh(self) -> bool:
        """Reads the lines added since the last time; returns whether there were any."""
        with self._lock:
            try:
                with os.scandir(self._directory) as entries:
                    sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(LINES_SUFFIX)}
            except (FileNotFoundError, NotADirectoryError):
                return False
            grown = sorted(name for name, size in sizes.items() if size > self._known.get(name, 0))
            urls, url_places = array.array("Q"), array.array("Q")
            bodies, body_places = array.array("Q"), array.array("Q")
            for name in grown:
                if name not in self._known:
                    self._names.append(name)
                    self._known[name] = 0
                file_number = self._names.index(name) << _OFFSET_BITS
                with open(os.path.join(self._directory, name), "rb") as file:
                    file.seek(self._known[name])
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        place = file_number | self._known[name]
                        self._known[name] += len(line)
                        try:
                            url, body = _keys(line)
                        except ValueError:
                            continue  # damaged: its URL counts as never tried
                        urls.append(url)
                        url_places.append(place)
                        if body is not None:
                            bodies.append(body)
                            body_places.append(place)
            if not urls:
                return False
            self._urls.add(urls, url_places)
            self._bodies.add(bodies, body_places)
            return True

    def find(self, url: str) -> Download | None:
        """Returns what came of `url` the last time, as far as this object knows."""
        for fields in self._lines(self._urls, key_of(url)):
            try:
                found = Download.from_json(fields)
            except (ValueError, KeyError, TypeError):
                continue
            if found.url == url:
                return found
        return None

    def place(self, sha256: str) -> tuple[str, int, int] | None:
        """Finds where the body with this digest lies in full: the pack's name, first byte, size. None if nowhere."""
        for fields in self._lines(self._bodies, sha256[:KEY_DIGITS]):
            try:
                digest, name, offset, size = (fields[key] for key in ("sha256", "pack", "offset", "size"))
                # After a power failure a line may have outlived its body.
                if digest == sha256 and os.stat(self.path(name)).st_size >= offset + size:
                    return name, offset, size
            except (OSError, KeyError, TypeError):
                continue
        return None

    def path(self, name: str) -> str:
        """Returns the path of the pack with this name."""
        return os.path.join(self._directory, name + BODIES_SUFFIX)

    def read(self, place: tuple[str, int, int]) -> bytes:
        """Reads the bytes at a place. Raises OSError."""
        name, offset, size = place
        return _read(self.path(name), offset, size)

    def _lines(self, table: _Table, key: str) -> Iterator[dict[str, Any]]:
        with self._lock:
            places = table.find(key)
        for place in places:
            path = os.path.join(self._directory, self._names[place >> _OFFSET_BITS])
            offset = place & ((1 << _OFFSET_BITS) - 1)
            count = _LINE_BYTES
            try:
                line = _read(path, offset, count)
                while b"\n" not in line and len(line) == count:
                    count *= 4
                    line = _read(path, offset, count)
                fields = json.loads(line[2 * KEY_DIGITS :].partition(b"\n")[0].decode("utf-8", "surrogatepass"))
            except (OSError, ValueError):
                continue
            if isinstance(fields, dict):
                yield fields


@functools.lru_cache
def packs_of(root: str) -> Packs:
    """Returns this process's table of the packs under `root`."""
    return Packs(root)
