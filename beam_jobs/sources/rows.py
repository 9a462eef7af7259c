"""Defines a row of a table of images, and what may stand in it."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from beam_jobs.sources.columns import REQUIRED, Columns
from beam_jobs.sources.split_names import split_of
from pipeline.command import ExpectedError, nearest, printable_line

_SPLITS = ("train", "validation", "test")
_UNWRITABLE = ("Cc", "Cs")  # control characters; halves of a UTF-16 pair, which JSON can spell but UTF-8 cannot
_MAX_CHARACTERS = 1 << 17  # beyond, a quote is not closed; URLs that are merely too long are refused one by one


class RowError(ExpectedError):
    """Reports what is wrong with a line or row, on one line of text; the caller knows in which file.

    Attributes:
      line: where it is, from 1.
      problem: what is wrong.
      unit: what `line` counts.
    """

    def __init__(self, line: int, problem: str, *, unit: str = "line") -> None:
        self.line, self.problem, self.unit = line, printable_line(problem), unit
        super().__init__(f"{unit} {line}: {self.problem}")


@dataclasses.dataclass(frozen=True)
class TableRow:
    """Holds one row.

    Attributes:
      line: where it is, from 1; of a file without lines, the row's number.
      uri: where the image is, as the table spells it.
      label: class name.
      split: "train", "validation", "test", or None where the table does not say.
    """

    line: int
    uri: str
    label: str
    split: str | None


def make_row(line: int, columns: Columns, fields: Mapping[str, Any], *, unit: str = "line") -> TableRow:
    """Checks one row.

    Args:
      line: where it is.
      columns: which fields count.
      fields: column → value: text, a whole number, or None.
      unit: what `line` counts.

    Raises:
      RowError: a value is missing, of another type, or no text that a record can hold.
    """
    texts = {}
    for ours in (*REQUIRED, "split"):
        name = getattr(columns, ours)
        try:
            texts[ours] = _text(name, fields.get(name), numbers=ours == "label")
            if ours in REQUIRED:
                check_text(name, texts[ours])
        except ValueError as error:
            raise RowError(line, str(error), unit=unit) from error
    split = split_of(texts["split"])
    if texts["split"] and split is None:
        known, hint = ", ".join(_SPLITS), nearest(texts["split"].lower(), _SPLITS)
        problem = f'{columns.split} "{texts["split"][:50]}" is none of {known}.{hint} (--split_column= for no split)'
        raise RowError(line, problem, unit=unit)
    return TableRow(line=line, uri=texts["uri"], label=texts["label"], split=split)


def _text(name: str, value: Any, *, numbers: bool) -> str:
    """Returns a value as text, "" for None. Raises ValueError."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and numbers:
        return str(value)
    shown = json.dumps(value, default=repr)[:50]
    wanted = "text in quotes or a whole number" if numbers else "text in quotes"
    raise ValueError(f'"{name}" is {shown}, expected {wanted}')


def check_text(name: str, text: str) -> None:
    """Refuses what is no text that a record can hold; `name` is of the column. Raises ValueError."""
    if not text:
        raise ValueError(f'no "{name}"')
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f'"{name}" has {len(text)} characters, at most {_MAX_CHARACTERS} are allowed')
    # `isprintable` is quick, and false for all of these, among others.
    if not text.isprintable() and any(unicodedata.category(char) in _UNWRITABLE for char in text):
        raise ValueError(f'"{name}" holds control characters: {text[:100]!r}')
