"""Counts statistics of what is written, shard by shard from the rows as they are written, and adds them up."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from beam_jobs.elements import Plan, Row

_SIZE_STEP = 32  # pixels; sides are counted in steps of this
_STEPS = 20  # brightness is counted in so many steps


@dataclasses.dataclass(kw_only=True)
class Tally:
    """Counts examples; `add` one, `merge` many. All of it integers, so that sums do not depend on their order.

    Attributes:
      labels: label → examples.
      formats: source format → examples.
      channels: "1" or "3" → examples.
      heights: height, rounded down to a multiple of 32 → examples; `widths` alike.
      brightness: lower bound of the twentieth of its range, as "0.35" → examples.
      encoded_anew: examples whose image is not the source file as it stands.
      relabelled: examples whose class a person has decided.
      with_position: examples whose image holds where it was taken (GPS), as its file did.
      image_bytes: sum of the images' sizes.
      max_height, max_width, min_height, min_width: pixels; 0 where there are no examples.
    """

    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    channels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    heights: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    widths: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    brightness: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    encoded_anew: int = 0
    relabelled: int = 0
    with_position: int = 0
    image_bytes: int = 0
    max_height: int = 0
    max_width: int = 0
    min_height: int = 0
    min_width: int = 0

    def add(self, row: Row, *, image_bytes: int, relabelled: bool = False, position: bool = False) -> None:
        """Counts one example.

        Args:
          row: it.
          image_bytes: size of its record's image.
          relabelled: whether a person decided its class.
          position: whether its record's image holds where it was taken.
        """
        facts = row.facts
        self.labels[row.item.label] += 1
        self.formats[facts.format] += 1
        self.channels[str(facts.channels)] += 1
        self.heights[str(facts.height // _SIZE_STEP * _SIZE_STEP)] += 1
        self.widths[str(facts.width // _SIZE_STEP * _SIZE_STEP)] += 1
        self.brightness[f"{min(int(facts.brightness * _STEPS), _STEPS - 1) / _STEPS:.2f}"] += 1
        self.encoded_anew += not facts.keeps_bytes
        self.relabelled += relabelled
        self.with_position += position
        self.image_bytes += image_bytes
        self.max_height = max(self.max_height, facts.height)
        self.max_width = max(self.max_width, facts.width)
        self.min_height = min(self.min_height or facts.height, facts.height)
        self.min_width = min(self.min_width or facts.width, facts.width)

    def merge(self, other: Tally) -> None:
        """Adds another tally to this one."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name.startswith("max_"):
                setattr(self, field.name, max(mine, theirs))
            elif field.name.startswith("min_"):
                setattr(self, field.name, min(mine or theirs, theirs or mine))
            else:
                setattr(self, field.name, mine + theirs)

    @property
    def examples(self) -> int:
        return self.labels.total()

    def to_data(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Tally:
        values: dict[str, Any] = {k: collections.Counter(v) if isinstance(v, dict) else v for k, v in data.items()}
        return cls(**values)


def merged(tallies: Iterable[Tally]) -> Tally:
    """Adds up tallies."""
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total


def _numeric(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda pair: float(pair[0])))


def _summary(tally: Tally) -> dict[str, Any]:
    return {
        "examples": tally.examples,
        "labels": dict(sorted(tally.labels.items())),
        "formats": dict(sorted(tally.formats.items())),
        "channels": _numeric(tally.channels),
        "encoded_anew": tally.encoded_anew,
        "relabelled": tally.relabelled,
        "with_position": tally.with_position,
        "image_bytes": tally.image_bytes,
        "height": {"min": tally.min_height, "max": tally.max_height, "histogram": _numeric(tally.heights)},
        "width": {"min": tally.min_width, "max": tally.max_width, "histogram": _numeric(tally.widths)},
        "brightness": {"histogram": _numeric(tally.brightness)},
    }


def statistics_json(splits: Mapping[str, Tally], plan: Plan) -> str:
    """Writes the text of statistics.json.

    Args:
      splits: split → tally of its examples.
      plan: says what is left out, and what a person should know.
    """
    data = {
        "splits": {name: _summary(tally) for name, tally in splits.items()},
        "total": _summary(merged(splits.values())),
        "rejects": dict(sorted(plan.rejects.items())),
        "left_out": {kind: {"count": count, "first": list(uris)} for kind, count, uris in plan.left_out},
        "notes": list(plan.notes),
        "histograms": {"height": f"in steps of {_SIZE_STEP} pixels", "brightness": f"in steps of {1 / _STEPS:g}"},
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
