"""Reads tables in Parquet, a batch of rows at a time, and of those the columns that count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.sources.columns import OURS, find_columns, say_once
from beam_jobs.sources.rows import RowError, TableRow, make_row
from pipeline.command import DataError, UsageError
from pipeline.format import storage

_BATCH = 10_000  # rows in memory
_MAX_COLUMN_BYTES = 256 << 20  # unpacked, of one column in one row group, which the library reads at once


def parquet_rows(path: str, asked: Mapping[str, str], encoding: str) -> Iterator[TableRow]:
    """Yields the rows of a Parquet file; `encoding` is "", for its text is UTF-8.

    Raises:
      UsageError: an encoding is given.
      DataError: the file is damaged, or has other columns than a table of images.
      RowError: a row is wrong.
      OSError: the file cannot be read.
    """
    import pyarrow as pa  # not above: most sources need none, and it takes 40 MB
    import pyarrow.parquet as pq

    if encoding:
        raise UsageError(f"--encoding={encoding}: text in Parquet is always UTF-8")
    with storage.open_file(path) as raw:
        try:
            with pq.ParquetFile(raw) as file:
                yield from _rows(path, file, asked)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            text = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: no Parquet file, or damaged: {text}") from error


def _rows(path: str, file: Any, asked: Mapping[str, str]) -> Iterator[TableRow]:
    try:
        columns = find_columns(file.schema_arrow.names, asked)
        chosen = [name for name in (getattr(columns, ours) for ours in OURS) if name]
        _check(file, chosen)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if columns.guessed:
        say_once(f"{path}: {columns}")
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
