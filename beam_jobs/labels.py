"""Puts class names in order, and refuses those that cannot stand in a dataset, wherever they come from."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from pipeline.command import DataError

# Rules of order, as the manifest names them.
BY_SOURCE, BY_NUMBER, BY_TEXT = "source", "number", "text"

# Control characters, halves of UTF-16 pairs, and separators of lines and paragraphs: no line of text holds them.
# Invisible characters (Cf) neither, but for the two that join and part letters in Persian, Indian scripts and emoji.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp", "Cf"))
_JOINERS = frozenset("\u200c\u200d")
_SHOWN = 200  # characters of a label in a message


def _leading_number(label: str) -> str:
    digits = 0
    while digits < len(label) and label[digits] in "0123456789":
        digits += 1
    return label[:digits]


def ordered(labels: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Puts labels in order, and names the rule.

    Where each begins with a number (`1`, `2`, … `10`; `3_cat`), this number decides, then the text (`BY_NUMBER`); else
    the text alone does, by Unicode's code points (`BY_TEXT`).
    """
    several = sorted(labels)
    numbers = {label: _leading_number(label) for label in several}
    if not all(numbers.values()):
        return tuple(several), BY_TEXT
    # Compared as text of equal length: a label may have more digits than `int` takes.
    plain = {label: number.lstrip("0") for label, number in numbers.items()}
    return tuple(sorted(several, key=lambda label: (len(plain[label]), plain[label], label))), BY_NUMBER


def check(labels: Sequence[str], *, official: bool) -> None:
    """Refuses labels that are not one line of printable text each, or that nobody can tell apart.

    Args:
      labels: distinct ones, in normal form C.
      official: whether the source itself says that these are its classes; then they may look alike.

    Raises:
      DataError: naming the label, its odd characters escaped, or both labels.
    """
    for label in labels:
        if not label.strip() or not _is_printable(label):
            raise DataError(
                f"the class name {label[:_SHOWN]!a} is not one line of printable text; give its folder, or its rows, "
                "another name"
            )
    if official:
        return
    seen: dict[str, str] = {}
    for label in sorted(labels):
        first = seen.setdefault(_folded(label), label)
        if first != label:
            raise DataError(
                f"the class names {first!r} and {label!r} differ only in case, spaces or Unicode spelling: are they "
                "one class? Give both the same name, or names that differ in more"
            )


def _is_printable(label: str) -> bool:
    # `isprintable` is quick, and false for all of these, among others.
    return label.isprintable() or not any(
        unicodedata.category(char) in _UNPRINTABLE and char not in _JOINERS for char in label
    )


def _folded(label: str) -> str:
    """Returns what labels that look the same have in common."""
    if len(label) == 1:
        return label  # sets of handwriting have a class "a" and a class "A"
    return " ".join(unicodedata.normalize("NFKC", label).casefold().replace("_", " ").split())
