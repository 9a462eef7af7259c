"""Compares what a command prints with what a page shows: any number or time stands for any other, "…" for anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = r"[-+−]?\d[\d.,]*(?:e[-+]?\d+)?"
_TIME = r"\d[\d.]* (?:h \d+ min|h|min|s)\b"  # seconds on one machine are minutes on another
_PARTS = re.compile(rf"(\s*…\s*)|({_TIME})|({_NUMBER})|(\s+)")
ANY_LINES = "…"  # alone on a line: any number of lines, none too


def _pattern(line: str) -> str:
    found, last = [], 0
    for part in _PARTS.finditer(line):
        found.append(re.escape(line[last : part.start()]))
        found.append(".*" if part[1] else _TIME if part[2] else _NUMBER if part[3] else r"\s+")
        last = part.end()
    return "".join([*found, re.escape(line[last:])])


def differs(shown: Sequence[str], printed: Sequence[str]) -> str:
    """Returns the first line shown that was not printed where it should have been; "" if all were."""
    wanted = [line.strip() for line in shown if line.strip()]
    lines = [line.strip() for line in printed if line.strip()]
    position, free = 0, False
    for line in wanted:
        if line == ANY_LINES:
            free = True
            continue
        pattern = re.compile(_pattern(line))
        there = [i for i in range(position, len(lines)) if pattern.fullmatch(lines[i])]
        if not there or (not free and there[0] != position):
            return line
        position, free = there[0] + 1, False
    return "" if free or position == len(lines) else f"nothing more; but it printed: {lines[position]}"
