"""Picks the images that the report shows in one pass over the listing and the inspection cache, bucket by bucket.

Memory does not grow with the number of images: of each kind only the few best so far are kept.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import os
from collections.abc import Callable, Collection, Mapping, Sequence

from beam_jobs.inspection import BUCKETS, read_bucket, read_cache
from beam_jobs.sources import SourceItem
from pipeline.images.facts import ImageFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Describes an image of the dataset, to be shown; `facts` as inspected."""

    item: SourceItem
    facts: ImageFacts

    @property
    def aspect(self) -> float:
        """Divides the longer side by the shorter side."""
        return max(self.facts.height, self.facts.width) / min(self.facts.height, self.facts.width)


# Name → (what comes first, what the caption says). The extremes of a dataset are where its mistakes are.
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
    """Holds what `survey` picked.

    Attributes:
      samples: label → some of its images, chosen by hash.
      extremes: name in EXTREMES → the first few images.
      items: the listed items of the URIs asked for.
    """

    samples: Mapping[str, Sequence[Picture]]
    extremes: Mapping[str, Sequence[Picture]]
    items: Mapping[str, SourceItem]


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


def survey(
    *, listing: str, cache: str, wanted: Collection[str], left_out: Collection[int], samples: int, extremes: int
) -> Survey:
    """Picks what the report shows.

    Args:
      listing: directory with the listing's buckets.
      cache: directory with the inspection cache.
      wanted: URIs whose items are asked for.
      left_out: `hash(uri)` of the images that are not in the dataset.
      samples: images per label.
      extremes: images per kind of extreme.
    """
    picked: dict[str, list[Picture]] = collections.defaultdict(list)
    ends: dict[str, list[Picture]] = {name: [] for name in EXTREMES}
    items = {}
    for bucket in BUCKETS:
        facts = read_cache(os.path.join(cache, bucket))
        pictures: dict[str, list[Picture]] = collections.defaultdict(list)
        for item in read_bucket(listing, bucket):
            if item.uri in wanted:
                items[item.uri] = item
            found = facts.get(item.uri)
            if found and isinstance(found.result, ImageFacts) and hash(item.uri) not in left_out:
                pictures[item.label].append(Picture(item=item, facts=found.result))
        for label, members in pictures.items():
            picked[label] = first_few(picked[label], members, samples, chance)
        everything = [picture for members in pictures.values() for picture in members]
        for name, (key, _) in EXTREMES.items():
            ends[name] = first_few(ends[name], everything, extremes, key)
    return Survey(samples=dict(sorted(picked.items())), extremes=ends, items=items)
