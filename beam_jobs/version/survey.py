"""Picks the images that the report shows: samples of every class, and the extremes, where a dataset's mistakes are."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from beam_jobs.elements import Item, Row
from pipeline.images.facts import ImageFacts


def _aspect(facts: ImageFacts) -> float:
    return max(facts.height, facts.width) / min(facts.height, facts.width)


def _size(facts: ImageFacts) -> str:
    return f"{facts.width} × {facts.height}"


# Name → (what comes first, what the caption says).
EXTREMES: Mapping[str, tuple[Callable[[ImageFacts], float], Callable[[ImageFacts], str]]] = {
    "darkest": (lambda f: f.brightness, lambda f: f"brightness {f.brightness:.2f}"),
    "brightest": (lambda f: -f.brightness, lambda f: f"brightness {f.brightness:.2f}"),
    "most blurred or empty": (lambda f: f.sharpness, lambda f: f"sharpness {f.sharpness:.3f}"),
    "longest": (lambda f: -_aspect(f), lambda f: f"{_aspect(f):.1f}:1, {_size(f)}"),
    "smallest": (lambda f: f.width * f.height, _size),
    "largest": (lambda f: -f.width * f.height, _size),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """Holds what was picked.

    Attributes:
      samples: label → some of its images, chosen by hash.
      extremes: name in EXTREMES → the first few images.
      items: the listed items of the URIs asked for.
    """

    samples: Mapping[str, Sequence[Row]]
    extremes: Mapping[str, Sequence[Row]]
    items: Mapping[str, Item]


class Best:
    """Keeps the `count` rows with the smallest ranks, each once, whatever order they come in."""

    def __init__(self, count: int) -> None:
        self.rows: list[Row] = []
        self._count = count
        self._ranks: list[tuple[float, bytes]] = []

    def offer(self, row: Row, rank: float) -> None:
        """Takes a row if it is among the best so far; equal ranks are told apart by ids."""
        if len(self.rows) == self._count and rank > self._ranks[-1][0]:
            return
        key = (rank, row.id)
        at = bisect.bisect_left(self._ranks, key)
        if at < len(self._ranks) and self._ranks[at] == key:
            return
        self._ranks.insert(at, key)
        self.rows.insert(at, row)
        del self._ranks[self._count :], self.rows[self._count :]


def chance(row: Row) -> float:
    """Ranks a row among the samples of its label: by its pixels' digest, so at random."""
    return float(int.from_bytes(row.pixels[-6:], "big"))
