"""Lays out a confusion matrix for the page's template to draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

_MATRIX_LABEL = 26  # columns


def drawn_matrix(labels: Sequence[str], confusion: np.ndarray) -> dict[str, Any]:
    """Returns what the template draws: the cells that are not zero, and how large they are."""
    count = len(labels)
    totals = np.maximum(confusion.sum(axis=1), 1)
    size = 64 if count <= 4 else 44 if count <= 12 else 30 if count <= 25 else 18 if count <= 40 else 520 // count
    names = count <= 40  # beyond, only the cells' tooltips
    shown = [shorten(label, _MATRIX_LABEL) for label in labels]
    cells = [
        {"row": int(i), "column": int(j), "count": int(confusion[i, j]), "share": float(confusion[i, j] / totals[i])}
        for i, j in zip(*np.nonzero(confusion), strict=True)
    ]
    return {
        "labels": labels,
        "shown": shown,
        "totals": totals.tolist(),
        "cells": cells,
        "size": size,
        "numbers": count <= 25,
        "names": names,
        "margin": 7 * max(map(columns_of, shown)) + 12 if names else 4,
    }


def columns_of(text: str) -> int:
    """Counts the columns that a text takes: two for a wide character, as kana and kanji are, none for an accent."""
    widths = (0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return sum(widths)


def shorten(text: str, columns: int) -> str:
    """Cuts a text down to so many columns, and shows that it did."""
    if columns_of(text) <= columns:
        return text
    while columns_of(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"
