"""Runs as a child of `parquet.parquet_rows`: reads a table in Parquet and writes its rows to standard output.

The library ends its process where a file contradicts itself, and takes the memory that a page claims to need. Of the
file it reads a batch of rows at a time, and of those the columns that count.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sources.columns import OURS, find_columns
from beam_jobs.sources.parquet import END, LENGTH, ROWS, SAID, WRONG_FILE, WRONG_ROW
from beam_jobs.sources.rows import RowError, TableRow, make_row
from pipeline.command import CommandError, DataError, printable_line
from pipeline.format import storage
from pipeline.format.packing import pack
from pipeline.images.heap import limited_memory

_BATCH = 10_000  # rows in memory
_MAX_COLUMN_BYTES = 256 << 20  # unpacked, of one column in one row group, which the library reads at once
_MAX_MEMORY = 4 << 30  # bytes of address space, of which the library reserves some and never touches it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def read_rows(path: str, asked: Mapping[str, str], say: Callable[[str], object]) -> Iterator[TableRow]:
    """Yields the rows of a Parquet file, in this process; `say` is told which columns were found.

    Raises:
      DataError: the file is damaged, or has other columns than a table of images.
      RowError: a row is wrong.
      OSError: the file cannot be read.
    """
    with storage.open_file(path) as raw:
        try:
            with pq.ParquetFile(raw) as file:
                yield from _rows(path, file, asked, say)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the library's own have none
                raise
            detail = printable_line(str(error))[:200]
            raise DataError(f"{path}: no Parquet file, or damaged: {detail}") from error
        except MemoryError as error:
            raise DataError(f"{path}: damaged, or a page of it takes more memory than a table's should") from error


def _rows(path: str, file: Any, asked: Mapping[str, str], say: Callable[[str], object]) -> Iterator[TableRow]:
    try:
        columns = find_columns(file.schema_arrow.names, asked)
        chosen = [name for name in (getattr(columns, ours) for ours in OURS) if name]
        _check(file, chosen)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if columns.guessed:
        say(f"{path}: {columns}")
    classes = _class_names(file.schema_arrow.metadata, columns.label)
    row = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=chosen):
        for values in zip(*(batch.column(name).to_pylist() for name in chosen), strict=True):
            row += 1
            if any(value not in (None, "") for value in values):
                fields = dict(zip(chosen, values, strict=True))
                if classes is not None:
                    fields[columns.label] = _named(fields[columns.label], classes, row)
                yield make_row(row, columns, fields, unit="row")


def _check(file: Any, chosen: Sequence[str]) -> None:
    """Refuses columns that hold images instead of places, and those too large to be read. Raises ValueError."""
    for name in chosen:
        kind = str(file.schema_arrow.field(name).type)
        if "binary" in kind:
            raise ValueError(
                f'column "{name}" holds bytes ({kind[:60]}), the images themselves perhaps; write them to files, and '
                "name the column of their paths with --uri_column"
            )
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            size = column.total_uncompressed_size
            if column.path_in_schema.partition(".")[0] in chosen and size > _MAX_COLUMN_BYTES:
                raise ValueError(
                    f'column "{column.path_in_schema}" takes {size} bytes in one row group, at most '
                    f"{_MAX_COLUMN_BYTES} are allowed; write it with smaller row groups"
                )


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> list[str] | None:
    """Finds the names of numbered classes, which Hugging Face's `datasets` leaves in the file; None without."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _named(value: Any, classes: Sequence[str], row: int) -> Any:
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(classes):
        raise RowError(row, f"label {value} is none of the {len(classes)} classes that the file names", unit="row")
    return classes[value]


class _Parent:
    """Takes what is read, a message at a time."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies

    def tell(self, kind: str, content: Any = None) -> None:
        message = pack((kind, content))
        self._replies.write(LENGTH.pack(len(message)) + message)
        self._replies.flush()


def _serve(path: str, asked: Mapping[str, str], parent: _Parent) -> None:
    waiting: list[tuple[Any, ...]] = []
    try:
        for row in read_rows(path, asked, lambda text: parent.tell(SAID, text)):
            waiting.append((row.line, row.uri, row.label, row.split))
            if len(waiting) == _BATCH:
                parent.tell(ROWS, waiting)
                waiting = []
        last: tuple[str, Any] = (END, None)
    except RowError as error:
        last = (WRONG_ROW, (error.line, error.problem, error.unit))
    except CommandError as error:
        last = (WRONG_FILE, str(error))
    except OSError as error:
        last = (WRONG_FILE, f"{path}: {error}")
    parent.tell(ROWS, waiting)
    parent.tell(*last)


def main() -> None:
    path, asked = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the parent, too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(os.dup(1), "wb") as replies, limited_memory(_MAX_MEMORY):
        os.dup2(2, 1)  # whatever a library prints is no reply
        _serve(path, asked, _Parent(replies))


if __name__ == "__main__":
    main()
