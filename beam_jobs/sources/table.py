"""Implements `--source=csv`, `jsonl`, `parquet` and `table`: a table of `uri,label[,split]`.

A URI is a path (relative to the table's folder), http(s)://…, file:///… or a path of one of Beam's file systems (gs://…).
What http(s) URIs lead to is read from the store of downloads, which a step of the build fills.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from beam_jobs.download.store import DownloadStore, is_url
from beam_jobs.sources import SourceItem, local
from beam_jobs.sources.columns import OURS
from beam_jobs.sources.delimited import delimited_rows
from beam_jobs.sources.json_lines import json_rows
from beam_jobs.sources.parquet import parquet_rows
from beam_jobs.sources.rows import RowError, TableRow
from pipeline.command import DataError, UsageError
from pipeline.format import storage
from pipeline.images.policy import ReadError, RejectCode, read_bounded

_Reader = Callable[[str, Mapping[str, str], str], Iterator[TableRow]]
_READERS: dict[str, _Reader] = {"csv": delimited_rows, "jsonl": json_rows, "parquet": parquet_rows}
_EXTENSIONS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv", ".txt"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
# In front of a path of Windows: its drive, or its server.
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\|file:/{1,3}[A-Za-z]:[\\/]", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TableSource:
    """Offers a table of images that lie anywhere.

    Attributes:
      path: the value of --input: the table, local or in a bucket.
      options: `download_dir`, the download store; `uri_column`, `label_column`, `split_column`, where the user names
        them; `encoding` of its text, "" for UTF-8.
    """

    path: str
    options: Mapping[str, str]

    needs: ClassVar[tuple[str, ...]] = ("download_dir", *(f"{name}_column" for name in OURS), "encoding")

    kind: ClassVar[str]

    @functools.cached_property
    def store(self) -> DownloadStore:
        """Holds the bytes behind http(s) URIs."""
        return DownloadStore(self.options["download_dir"])

    @property
    def _kind(self) -> str:
        """Names how the file is to be read. Raises UsageError."""
        if self.kind != "table":
            return self.kind
        extension = os.path.splitext(self.path)[1].lower()
        if extension not in _EXTENSIONS:
            raise UsageError(f"--input={self.path}: a table of what kind? Give --source={', '.join(_READERS)}")
        return _EXTENSIONS[extension]

    @property
    def _unit(self) -> str:
        return "row" if self._kind == "parquet" else "line"

    def _inside(self) -> str:
        """Names tables in a folder that was given in place of one, as far as there are any."""
        entries = (entry.name for entry in storage.list_folder(self.path) if not entry.is_folder)
        tables = sorted(name for name in entries if os.path.splitext(name)[1].lower() in _EXTENSIONS)
        return f", perhaps --input={storage.join(self.path, tables[0])}" if tables else ""

    def _rows(self) -> Iterator[TableRow]:
        asked = {name: self.options[f"{name}_column"] for name in OURS if f"{name}_column" in self.options}
        return _READERS[self._kind](self.path, asked, self.options.get("encoding", ""))

    def _checked_rows(self) -> Iterator[TableRow]:
        """Yields the rows; one that repeats an earlier one is dropped, one that contradicts it is an error."""
        seen: dict[bytes, tuple[int, str, str | None]] = {}
        try:
            for found in self._rows():
                row = dataclasses.replace(found, uri=self._place(found))
                # Digests instead of URIs: a table may have millions of rows.
                key = hashlib.blake2b(row.uri.encode(), digest_size=16).digest()
                if key not in seen:
                    seen[key] = (row.line, row.label, row.split)
                    yield row
                elif seen[key][1:] != (row.label, row.split):
                    problem = f"{row.uri} has another label or split than in {self._unit} {seen[key][0]}"
                    raise RowError(row.line, problem, unit=self._unit)
        except FileNotFoundError as error:
            raise UsageError(f"--input={self.path}: no such file") from error
        except IsADirectoryError as error:
            problem = f"is a folder; --source={self.kind} wants a file{self._inside()}"
            raise UsageError(f"--input={self.path}: {problem}") from error
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

    def _place(self, row: TableRow) -> str:
        """Spells a row's URI as it is spelt here: backslashes are Windows' slashes, unless a file has one in its name.

        Raises:
          RowError: it is a place on a machine with Windows.
        """
        uri, windows = row.uri, _WINDOWS_ROOT.match(row.uri)
        if not windows and ("\\" not in uri or storage.is_remote(uri)):
            return uri
        if not storage.is_remote(uri) and os.path.lexists(self._path(uri)):
            return uri
        if windows:
            problem = f"{uri[:200]} lies on a drive of Windows; give paths relative to the table's folder, or URLs"
            raise RowError(row.line, problem, unit=self._unit)
        return uri.replace("\\", "/")

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
        return self._kind


class CsvSource(TableSource):
    """Reads text with delimiters, whose first line names the columns."""

    kind = "csv"


class JsonlSource(TableSource):
    """Reads a file with one JSON object a line."""

    kind = "jsonl"


class ParquetSource(TableSource):
    """Reads a Parquet file."""

    kind = "parquet"


class AnyTableSource(TableSource):
    """Reads a table of the kind that its name ends with."""

    kind = "table"
