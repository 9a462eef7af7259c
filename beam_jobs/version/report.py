"""Renders a version's report.html: one file, readable offline, of bounded size whatever the number of images."""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beam_jobs.duplicates.alike import SCENE
from beam_jobs.elements import Item
from beam_jobs.sources import Source
from beam_jobs.summary import left_out_lines
from beam_jobs.version.survey import EXTREMES, Survey
from pipeline.format.manifest import Manifest
from pipeline.images.guarded import Decoder
from pipeline.images.policy import ReadError, RejectCode
from pipeline.pages.environment import environment

# Together at most 672 thumbnails of some 4 KB, and 8 for each reject code.
_SAMPLES = 240
SAMPLES_PER_LABEL = 8
EXTREMES_SHOWN = 8
_REJECTS_PER_CODE = 8
_GROUPS_PER_KIND = 16
_MEMBERS_PER_GROUP = 6
_MAX_ROWS = 500  # of the table of classes

_OVER_BUDGET = (RejectCode.TOO_SLOW.value, RejectCode.TOO_MUCH_MEMORY.value)

_TITLES = {
    "conflict": "One picture under several labels",
    "near_conflict": "One picture, saved differently, under several labels",
    "exact": "Same pixels",
    "near": "Look alike",
    SCENE: "Look alike under different labels, too many for copies",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """Describes one image on the page; `uri` is a data: URI, or None where there is nothing to show."""

    uri: str | None
    source: str
    label: str
    caption: str
    kept: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Describes images that are copies of each other, `more` of which are not shown."""

    members: Sequence[Thumbnail]
    more: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejects:
    """Sums up rejects.jsonl."""

    examples: Mapping[str, Sequence[dict[str, Any]]]  # code → the first few rows
    counts: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Sums up duplicates.jsonl."""

    largest: Mapping[str, Sequence[dict[str, Any]]]  # kind → largest ones
    counts: Mapping[str, int]  # kind → how many
    between: Mapping[tuple[str, ...], int]  # labels → conflicts between them, the 20 most frequent


def read_rejects(lines: Iterable[str]) -> Rejects:
    """Reads the lines of rejects.jsonl."""
    examples: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    counts: collections.Counter[str] = collections.Counter()
    for row in map(json.loads, lines):
        counts[row["code"]] += 1
        if len(examples[row["code"]]) < _REJECTS_PER_CODE:
            examples[row["code"]].append(row)
    return Rejects(examples=examples, counts=counts)


def read_groups(lines: Iterable[str]) -> Groups:
    """Reads the lines of duplicates.jsonl."""
    largest: dict[str, list[tuple[int, str, dict[str, Any]]]] = collections.defaultdict(list)
    counts: collections.Counter[str] = collections.Counter()
    between: collections.Counter[tuple[str, ...]] = collections.Counter()
    for group in map(json.loads, lines):
        kind, members = group["kind"], group["members"]
        counts[kind] += 1
        if kind.endswith("conflict"):
            between[tuple(sorted({member["label"] for member in members}))] += 1
        heap = largest[kind]
        heapq.heappush(heap, (len(members), members[0]["uri"], group))
        if len(heap) > _GROUPS_PER_KIND:
            heapq.heappop(heap)
    chosen = {
        kind: [group for *_, group in sorted(heap, key=lambda e: (-e[0], e[1]))] for kind, heap in largest.items()
    }
    return Groups(largest=chosen, counts=dict(counts), between=dict(between.most_common(20)))


class _Shelf:
    """Makes thumbnails of listed items."""

    def __init__(self, source: Source, items: Mapping[str, Item], decoder: Decoder) -> None:
        self._source = source
        self._items = items
        self._decoder = decoder

    def take(
        self, uri: str, *, label: str, caption: str = "", item: Item | None = None, kept: bool = True
    ) -> Thumbnail:
        item = item or self._items.get(uri)
        shown = None
        if item is not None:
            with contextlib.suppress(ReadError):
                image = self._decoder.thumbnail(self._source.read(item))
                shown = (
                    f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" if isinstance(image, bytes) else None
                )
        return Thumbnail(uri=shown, source=uri, label=label, caption=caption, kept=kept)

    def reject(self, row: Mapping[str, str], code: str) -> Thumbnail:
        if code in _OVER_BUDGET:  # and would be again
            return Thumbnail(uri=None, source=row["uri"], label=row["label"], caption=row["detail"], kept=False)
        return self.take(row["uri"], label=row["label"], caption=row["detail"], kept=False)

    def group(self, group: Mapping[str, Any]) -> Group:
        kept = set(group["kept"])
        shown = group["members"][:_MEMBERS_PER_GROUP]
        members = [
            self.take(m["uri"], label=m["label"], caption=m["split"] or "", kept=m["uri"] in kept) for m in shown
        ]
        return Group(members=members, more=len(group["members"]) - len(shown))


def _bars(histogram: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Turns a histogram into (lower bound, count, part of the highest)."""
    top = max(histogram.values(), default=1)
    return [(bound, count, count / top) for bound, count in histogram.items()]


def samples_per_label(labels: Sequence[str]) -> int:
    """Counts the samples shown of each label."""
    return max(1, min(SAMPLES_PER_LABEL, _SAMPLES // len(labels)))


def render_report(
    *,
    manifest: Manifest,
    statistics: Mapping[str, Any],
    rejects: Rejects,
    groups: Groups,
    picked: Survey,
    source: Source,
    decoder: Decoder,
) -> str:
    """Renders the page as HTML.

    Args:
      manifest: of the version.
      statistics: what statistics.json holds.
      rejects: what rejects.jsonl holds.
      groups: what duplicates.jsonl holds.
      picked: the images that are shown.
      source: reads them.
      decoder: makes them small.
    """
    shelf = _Shelf(source, picked.items, decoder)
    labels = statistics["total"]["labels"]
    rows = sorted(manifest.labels, key=lambda label: (-labels.get(label, 0), label))
    page = environment(__package__).get_template("report.html.j2")
    return page.render(
        manifest=manifest,
        statistics=statistics,
        total=statistics["total"],
        classes=rows[:_MAX_ROWS],
        more_classes=len(rows[_MAX_ROWS:]),
        largest_class=max(labels.values(), default=1),
        smallest_class=min((labels.get(label, 0) for label in manifest.labels), default=0),
        histograms={
            "Height in pixels": _bars(statistics["total"]["height"]["histogram"]),
            "Width in pixels": _bars(statistics["total"]["width"]["histogram"]),
            "Mean brightness": _bars(statistics["total"]["brightness"]["histogram"]),
        },
        rejects={code: [shelf.reject(row, code) for row in rows] for code, rows in sorted(rejects.examples.items())},
        reject_counts=rejects.counts,
        not_looked_into=left_out_lines(
            (kind, found["count"], tuple(found["first"])) for kind, found in statistics["left_out"].items()
        ),
        left_out=sum(rejects.counts.values()),
        groups={
            kind: [shelf.group(group) for group in groups.largest[kind]] for kind in _TITLES if kind in groups.largest
        },
        group_counts=groups.counts,
        group_titles=_TITLES,
        between=groups.between,
        extremes={
            name: [
                shelf.take(row.item.uri, item=row.item, label=row.item.label, caption=EXTREMES[name][1](row.facts))
                for row in found
            ]
            for name, found in picked.extremes.items()
        },
        samples={
            label: [shelf.take(row.item.uri, item=row.item, label=label) for row in found]
            for label, found in list(picked.samples.items())[:_SAMPLES]
        },
    )
