"""Reads tables of text with delimiters: CSV with commas, semicolons, tabs or bars, as spreadsheets write it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence

from beam_jobs.sources.columns import OURS, REQUIRED, Columns, find_columns, say_once
from beam_jobs.sources.rows import RowError, TableRow, make_row
from beam_jobs.sources.text_lines import MAX_CHARACTERS, Lines

_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {"\t": "tab", "|": "bar"}
_HEADER_LINES = 100
_LOOKS_LIKE_DATA = ("/", "\\", ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def delimited_rows(path: str, asked: Mapping[str, str], encoding: str) -> Iterator[TableRow]:
    """Yields the rows of a table whose first line names the columns. Raises RowError, UsageError, OSError."""
    # The library counts a field for all of the process; `Lines` bounds the whole record.
    csv.field_size_limit(MAX_CHARACTERS)
    with Lines(path, encoding) as lines:
        delimiter, names, columns = _header(lines, asked)
        if columns.guessed or delimiter != ",":
            say_once(f"{path}: {columns}; the delimiter is {_named(delimiter)}")
        places = {name: names.index(name) for name in (getattr(columns, ours) for ours in OURS) if name}
        needed = {getattr(columns, ours) for ours in REQUIRED}
        for line, values in _records(lines, delimiter):
            missing = [name for name, place in places.items() if place >= len(values) and name in needed]
            if missing or any(value.strip() for value in values[len(names) :]):
                shown = f"{values!r:.100}"
                problem = (
                    f"{len(values)} values for {len(names)} columns (the delimiter is {_named(delimiter)}): {shown}"
                )
                raise RowError(line, problem)
            # Spreadsheets leave out the last cells of a row where they are empty.
            fields = {name: values[place] for name, place in places.items() if place < len(values)}
            yield make_row(line, columns, fields)


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
    raise RowError(max(1, lines.number), 'no column "uri"; there are no columns: the file is empty')


def _whole(line: str, lines: Lines) -> str:
    """Adds the lines that a header's quoted cells go on in."""
    parts, quotes = [line], line.count('"')
    while quotes % 2 and len(parts) < _HEADER_LINES and (more := next(lines, "")):
        parts.append(more)
        quotes += more.count('"')
    return "".join(parts)


def _header(lines: Lines, asked: Mapping[str, str]) -> tuple[str, list[str], Columns]:
    """Reads the header and finds the delimiter: the one that shows our columns. Raises RowError.

    A rule of our own, because only the header is looked at, and what it must name is known: `csv.Sniffer` guesses from
    letters that occur often.
    """
    text, given = _first(lines)
    lines.new_record()
    problems: list[tuple[int, str]] = []
    for delimiter in given or _DELIMITERS:
        try:
            names = _cells(text, delimiter)
            return delimiter, names, find_columns(names, asked)
        except csv.Error as error:
            problems.append((0, str(error)))
        except ValueError as error:
            problems.append((len(names), f"{error} (the delimiter is {_named(delimiter)}){_hint(names)}"))
    # The delimiter that shows most columns; the first of several.
    raise RowError(lines.number, max(problems, key=lambda problem: problem[0])[1])


def _cells(text: str, delimiter: str) -> list[str]:
    """Takes the header apart; columns at the end without a name are those of a spreadsheet's empty cells."""
    (names,) = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    return names


def _hint(names: Sequence[str]) -> str:
    if any(part in name.lower() for name in names for part in _LOOKS_LIKE_DATA):
        return "; this line looks like an image's: put a line before it that names the columns: uri,label[,split]"
    return ""
