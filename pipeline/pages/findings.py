"""Defines what a judgement consists of: findings, each green, amber or red, and shown where its subject is."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable


class Level(enum.StrEnum):
    """Says how serious a finding is."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Says what was found of one subject.

    Attributes:
      level: how serious it is.
      subject: names the section of the page that shows it.
      text: in one line.
      short: in a few words, for the verdict; "" for a green one.
    """

    level: Level
    subject: str
    text: str
    short: str = ""


WORDS = {Level.GREEN: "all right", Level.AMBER: "look here", Level.RED: "stop"}  # for people
FEW_VALIDATION = 200  # images; an accuracy of 0.9 is then known to 4 points


def worst(findings: Iterable[Finding]) -> Level:
    """Returns the most serious level of all findings."""
    levels = {one.level for one in findings}
    return next((level for level in (Level.RED, Level.AMBER) if level in levels), Level.GREEN)


def things(count: int) -> str:
    """Returns "One thing", "Two things" and so on."""
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    number = words[count] if count < len(words) else str(count)
    return f"{number} thing{'' if count == 1 else 's'}"
