"""Implements `--source=csv` and `--source=jsonl`: a table of `uri,label[,split]`.

A URI is a path (relative to the table's folder), http(s)://…, file:///… or a path of one of Beam's file systems (gs://…).
What http(s) URIs lead to is read from the store of downloads, which a step of the build fills.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import hashlib
import json
import os
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from beam_jobs.download.store import DownloadStore, is_url
from beam_jobs.sources import SourceItem, local
from pipeline.command import DataError, ExpectedError, UsageError, nearest
from pipeline.format import storage
from pipeline.images.policy import ReadError, RejectCode, read_bounded

_REQUIRED = ("uri", "label")
_SPLITS = ("train", "validation", "test")
_UNWRITABLE = ("Cc", "Cs")  # control characters; halves of a UTF-16 pair, which JSON can spell but UTF-8 cannot


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    uri: str
    label: str
    split: str | None


class RowError(ExpectedError):
    """Reports what is wrong with a line; the caller knows in which file."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


def _make_row(line: int, fields: Mapping[str, Any]) -> _Row:
    """Checks one row. Raises RowError."""
    for name in (*_REQUIRED, "split"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise RowError(line, f'"{name}" is {json.dumps(value)[:50]}, expected text in quotes')
    texts = {name: (fields.get(name) or "").strip() for name in (*_REQUIRED, "split")}
    for name in _REQUIRED:
        if not texts[name]:
            raise RowError(line, f'no "{name}"')
        # `isprintable` is quick, and false for all of these, among others.
        if not texts[name].isprintable() and any(unicodedata.category(char) in _UNWRITABLE for char in texts[name]):
            raise RowError(line, f'"{name}" holds control characters: {texts[name][:100]!r}')
    split = texts["split"] or None
    if split is not None and split not in _SPLITS:
        raise RowError(line, f'split "{split[:50]}" is none of {", ".join(_SPLITS)}.{nearest(split, _SPLITS)}')
    return _Row(line=line, uri=texts["uri"], label=texts["label"], split=split)


def _lines(path: str) -> Iterator[str]:
    """Yields the file's lines, without holding them all in memory; a byte order mark is dropped."""
    with storage.open_file(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError as error:
                raise RowError(number, f"not UTF-8 ({error.reason} at byte {error.start})") from error


def _check_columns(columns: Iterable[str]) -> None:
    """Checks that the first line names our columns; ignores others, unless one looks like `split` misspelt."""
    names = list(columns)
    for name in _REQUIRED:
        if name not in names:
            raise RowError(1, f'no column "{name}"; the first line names the columns: uri,label[,split]')
    for name in names:
        if name not in (*_REQUIRED, "split") and "split" not in names and nearest(name.lower(), ["split"]):
            raise RowError(1, f'column "{name}" is unknown.{nearest(name.lower(), ["split"])}')
    if repeated := [name for name in (*_REQUIRED, "split") if names.count(name) > 1]:
        raise RowError(1, f'column "{repeated[0]}" appears twice')


def _csv_rows(lines: Iterator[str]) -> Iterator[_Row]:
    reader = csv.reader(lines, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(columns)
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise RowError(reader.line_num, f"{len(values)} values for {len(columns)} columns: {values!r:.100}")
            yield _make_row(reader.line_num, dict(zip(columns, values, strict=True)))
    except csv.Error as error:
        raise RowError(reader.line_num, str(error)) from error


def _jsonl_rows(lines: Iterator[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RowError(number, f"not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise RowError(number, f'expected {{"uri": …, "label": …}}, got {line[:100]!r}')
        yield _make_row(number, fields)


@dataclasses.dataclass(frozen=True)
class TableSource:
    """Offers a table of images that lie anywhere.

    Attributes:
      path: the value of --input: the table, local or in a bucket.
      options: `download_dir`, the download store.
    """

    path: str
    options: Mapping[str, str]

    needs: ClassVar[tuple[str, ...]] = ("download_dir",)

    kind: ClassVar[str]

    @functools.cached_property
    def store(self) -> DownloadStore:
        """Holds the bytes behind http(s) URIs."""
        return DownloadStore(self.options["download_dir"])

    def _rows(self) -> Iterator[_Row]:
        raise NotImplementedError

    def _checked_rows(self) -> Iterator[_Row]:
        """Yields the rows; one that repeats an earlier one is dropped, one that contradicts it is an error."""
        seen: dict[bytes, tuple[int, str, str | None]] = {}
        try:
            for row in self._rows():
                # Digests instead of URIs: a table may have millions of rows.
                key = hashlib.blake2b(row.uri.encode(), digest_size=16).digest()
                if key not in seen:
                    seen[key] = (row.line, row.label, row.split)
                    yield row
                elif seen[key][1:] != (row.label, row.split):
                    raise RowError(row.line, f"{row.uri} has another label or split than in line {seen[key][0]}")
        except FileNotFoundError as error:
            raise UsageError(f"--input={self.path}: no such file") from error
        except IsADirectoryError as error:
            raise UsageError(f"--input={self.path}: is a folder; --source={self.kind} wants a file") from error
        except OSError as error:
            raise DataError(f"{self.path}: {error}") from error
        except RowError as error:
            raise DataError(f"{self.path}, {error}") from error
        if not seen:
            raise DataError(f"{self.path}: no rows")

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`."""
        for row in self._checked_rows():
            yield SourceItem(uri=row.uri, label=row.label, split=row.split, stamp=self._stamp(row.uri))

    def _stamp(self, uri: str) -> str:
        if is_url(uri):
            return ""  # it is known when it has been downloaded
        try:
            return storage.stamp(self._path(uri))[1]
        except (OSError, UsageError, ValueError):  # absent; no such store; a null byte in the path
            return "absent"

    def _path(self, uri: str) -> str:
        if uri.lower().startswith("file://"):
            return urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
        if storage.is_remote(uri):
            return uri
        folder, _, _ = self.path.rpartition("/")
        return f"{folder}/{uri}" if storage.is_remote(self.path) else os.path.join(os.path.dirname(self.path), uri)

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`."""
        if is_url(item.uri):
            return self._read_download(item)
        path = self._path(item.uri)
        if not storage.is_remote(path):
            return local.read_image(path)
        try:
            with storage.open_file(path) as file:
                return read_bounded(file)
        except UsageError as error:  # a store that is unknown, or whose library is not installed
            raise ReadError(RejectCode.UNREADABLE, str(error)) from error
        except OSError as error:
            raise ReadError(RejectCode.UNREADABLE, error.strerror or str(error)) from error

    def announce(self, item: SourceItem) -> None:
        """Implements `AnnouncedSource.announce`."""
        if not is_url(item.uri):
            local.announce(self._path(item.uri))

    def _read_download(self, item: SourceItem) -> bytes:
        kind, _, digest = item.stamp.partition(":")
        if kind != "sha256":
            raise ReadError(RejectCode.UNREADABLE, "not downloaded")
        try:
            return self.store.read(digest)
        except OSError as error:
            raise ReadError(RejectCode.UNREADABLE, str(error)) from error

    def labels(self) -> list[str] | None:
        """Returns None: a table has no order of classes."""
        return None

    def fingerprint(self) -> str:
        """Returns the kind of table: everything that identifies the data stands in the items."""
        return self.kind


class CsvSource(TableSource):
    """Reads a CSV file whose first line names the columns."""

    kind = "csv"

    def _rows(self) -> Iterator[_Row]:
        return _csv_rows(_lines(self.path))


class JsonlSource(TableSource):
    """Reads a file with one JSON object a line."""

    kind = "jsonl"

    def _rows(self) -> Iterator[_Row]:
        return _jsonl_rows(_lines(self.path))
