"""Reads tables of text with delimiters: CSV with commas, semicolons, tabs or bars, as spreadsheets write it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from beam_jobs.sources.columns import Columns, find_columns, one_line, say_once
from beam_jobs.sources.rows import RowError, TableRow, make_row
from beam_jobs.sources.text_lines import MAX_CHARACTERS, Lines

_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {"\t": "tab", "|": "bar"}
_HEADER_LINES = 100
_LOOKS_LIKE_DATA = ("/", "\\", ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Chosen(Protocol):
    """Says which columns count."""

    @property
    def needed(self) -> Sequence[str]:
        """Lists the columns that every row must have."""


T = TypeVar("T", bound=Chosen)


def delimited_rows(path: str, asked: Mapping[str, str], encoding: str) -> Iterator[TableRow]:
    """Yields the rows of a table whose first line names the columns. Raises RowError, UsageError, OSError."""

    def choose(names: Sequence[str]) -> Columns:
        return find_columns(names, asked)

    def announce(columns: Columns, delimiter: str) -> None:
        if columns.guessed or delimiter != ",":
            say_once(f"{path}: {columns}; the delimiter is {_named(delimiter)}")

    for line, columns, fields in delimited_fields(path, choose, encoding, announce=announce):
        yield make_row(line, columns, fields)


def delimited_fields(
    path: str,
    choose: Callable[[Sequence[str]], T],
    encoding: str = "",
    *,
    announce: Callable[[T, str], None] | None = None,
) -> Iterator[tuple[int, T, dict[str, str]]]:
    """Yields (line, what was chosen, column → value) of the rows that are not empty.

    Args:
      path: of the table, on a disk or in a store.
      choose: chooses among the columns that the first line names, or raises ValueError.
      encoding: see `Lines`.
      announce: is told what was chosen and the delimiter, before the first row.

    Raises:
      RowError, UsageError, OSError: see `delimited_rows`.
    """
    # The library counts a field for all of the process; `Lines` bounds the whole record.
    csv.field_size_limit(MAX_CHARACTERS)
    with Lines(path, encoding) as lines:
        delimiter, names, chosen = _header(lines, choose)
        if announce is not None:
            announce(chosen, delimiter)
        enough = 1 + max(map(names.index, chosen.needed), default=0)
        for line, values in _records(lines, delimiter):
            if len(values) < enough or any(value.strip() for value in values[len(names) :]):
                counts = f"{len(values)} values for {len(names)} columns"
                raise RowError(line, f"{counts} (the delimiter is {_named(delimiter)}): {values!r:.100}")
            # Spreadsheets leave out the last cells of a row where they are empty.
            yield line, chosen, dict(zip(names, values, strict=False))


def _named(delimiter: str) -> str:
    return f'"{_NAMES.get(delimiter, delimiter)}"'


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, values) of what is not empty. Raises RowError."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    start = lines.number + 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield lines.number, values
            lines.new_record()
            start = lines.number + 1
    except csv.Error as error:
        where = f" (the record begins in line {start})" if start < lines.number else ""
        raise RowError(lines.number, f"{error}{where}") from error


def _first(lines: Lines) -> tuple[str, str]:
    """Returns the text of the header, and the delimiter that a line `sep=;` before it names, or ""."""
    delimiter = ""
    for line in lines:
        text = line.rstrip("\r\n").strip('"')
        if not delimiter and len(text) == 5 and text[:4].lower() == "sep=":
            delimiter = text[4]
        elif line.strip(' "\r\n' + "".join(_DELIMITERS)):
            return _whole(line, lines), delimiter
    return "", delimiter


def _whole(line: str, lines: Lines) -> str:
    """Adds the lines that a header's quoted cells go on in."""
    parts, quotes = [line], line.count('"')
    while quotes % 2 and len(parts) < _HEADER_LINES and (more := next(lines, "")):
        parts.append(more)
        quotes += more.count('"')
    return "".join(parts)


def _header(lines: Lines, choose: Callable[[Sequence[str]], T]) -> tuple[str, list[str], T]:
    """Reads the header and finds the delimiter: the one that shows the columns. Raises RowError.

    A rule of our own, because only the header is looked at, and what it must name is known: `csv.Sniffer` guesses from
    letters that occur often.
    """
    text, given = _first(lines)
    lines.new_record()
    problems: list[tuple[int, str]] = []
    for delimiter in given or _DELIMITERS:
        try:
            names = _cells(text, delimiter)
            return delimiter, names, choose(names)
        except csv.Error as error:
            problems.append((0, str(error)))
        except ValueError as error:
            shown = f" (the delimiter is {_named(delimiter)}){_hint(names)}" if names else ""
            problems.append((len(names), f"{error}{shown}"))
    # The delimiter that shows most columns; the first of several.
    raise RowError(max(1, lines.number), max(problems, key=lambda problem: problem[0])[1])


def _cells(text: str, delimiter: str) -> list[str]:
    """Takes the header apart; columns at the end without a name are those of a spreadsheet's empty cells."""
    rows = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
    names = [one_line(name) for row in rows for name in row]
    while names and not names[-1]:
        names.pop()
    return names


def _hint(names: Sequence[str]) -> str:
    if any(part in name.lower() for name in names for part in _LOOKS_LIKE_DATA):
        return "; this line looks like an image's: put a line before it that names the columns: uri,label[,split]"
    return ""
