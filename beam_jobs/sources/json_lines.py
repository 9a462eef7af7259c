"""Reads tables of JSON: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from beam_jobs.sources.columns import Columns, find_columns, say_once
from beam_jobs.sources.rows import RowError, TableRow, make_row
from beam_jobs.sources.text_lines import Lines

_SHAPES = 64  # sets of names that are remembered; tables have one or two


def json_rows(path: str, asked: Mapping[str, str], encoding: str) -> Iterator[TableRow]:
    """Yields the rows of a file with one JSON object a line. Raises RowError, UsageError, OSError."""
    shapes: dict[tuple[str, ...], Columns] = {}
    with Lines(path, encoding) as lines:
        for line in lines:
            lines.new_record()
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RowError(lines.number, f"not JSON: {error}; every line must be one whole object") from error
            if not isinstance(fields, dict):
                raise RowError(lines.number, f'expected {{"uri": …, "label": …}}, got {line[:100]!r}')
            # Each object says itself which names it has: a first one without `split` does not speak for the others.
            names = tuple(fields)
            if names not in shapes:
                try:
                    found = find_columns(names, asked)
                except ValueError as error:
                    raise RowError(lines.number, str(error)) from error
                if found.guessed and not shapes:
                    say_once(f"{path}: {found}")
                if len(shapes) == _SHAPES:
                    shapes.pop(next(iter(shapes)))
                shapes[names] = found
            yield make_row(lines.number, shapes[names], fields)
