"""Picks the images that the report shows: samples of every class, and the extremes, where a dataset's mistakes are."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

from beam_jobs.elements import Item
from pipeline.images.facts import ImageFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Describes an image of the dataset, to be shown; `facts` as inspected."""

    item: Item
    facts: ImageFacts

    @property
    def aspect(self) -> float:
        """Divides the longer side by the shorter side."""
        return max(self.facts.height, self.facts.width) / min(self.facts.height, self.facts.width)


# Name → (what comes first, what the caption says).
EXTREMES: Mapping[str, tuple[Callable[[Picture], float], Callable[[Picture], str]]] = {
    "darkest": (lambda p: p.facts.brightness, lambda p: f"brightness {p.facts.brightness:.2f}"),
    "brightest": (lambda p: -p.facts.brightness, lambda p: f"brightness {p.facts.brightness:.2f}"),
    "most blurred or empty": (lambda p: p.facts.sharpness, lambda p: f"sharpness {p.facts.sharpness:.3f}"),
    "longest": (lambda p: -p.aspect, lambda p: f"{p.aspect:.1f}:1, {p.facts.width} × {p.facts.height}"),
    "smallest": (lambda p: p.facts.width * p.facts.height, lambda p: f"{p.facts.width} × {p.facts.height}"),
    "largest": (lambda p: -p.facts.width * p.facts.height, lambda p: f"{p.facts.width} × {p.facts.height}"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """Holds what was picked.

    Attributes:
      samples: label → some of its images, chosen by hash.
      extremes: name in EXTREMES → the first few images.
      items: the listed items of the URIs asked for.
    """

    samples: Mapping[str, Sequence[Picture]]
    extremes: Mapping[str, Sequence[Picture]]
    items: Mapping[str, Item]


def first_few(
    kept: list[Picture], more: Collection[Picture], count: int, key: Callable[[Picture], float]
) -> list[Picture]:
    """Picks the first few by `key` of what was kept so far and some more pictures, each picture once."""
    if len(kept) == count:
        last = key(kept[-1])
        more = [picture for picture in more if key(picture) <= last]
        if not more:
            return kept
    chosen: dict[str, Picture] = {}
    for picture in heapq.nsmallest(4 * count, [*kept, *more], key=lambda p: (key(p), p.facts.sha256, p.item.uri)):
        chosen.setdefault(picture.facts.pixel_sha256, picture)
    return list(chosen.values())[:count]


def chance(picture: Picture) -> float:
    """Ranks a picture among the samples of its label, by hash."""
    return int(hashlib.sha256(picture.facts.pixel_sha256.encode()).hexdigest()[:12], 16)
