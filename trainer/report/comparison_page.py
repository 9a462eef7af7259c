"""Writes the page that compares two models, with the pictures that only one of them got right. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import environment, percent
from pipeline.pages.pictures import data_uri, find_records
from pipeline.predictions import Predictions
from trainer.report.comparison import Comparison

_SHOWN = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Describes an image and the two answers; `uri` is a data: URI, None where the dataset is gone."""

    label: str
    first: str
    second: str
    source: str
    uri: str | None


def verdict_of(found: Comparison, names: Sequence[str]) -> str:
    """Says in a sentence which of two models is better, as far as the images prove it."""
    low, high = (100 * end for end in found.interval)
    numbers = (
        f"{names[0]} has {found.right[0]} of {found.pairs} right, {names[1]} {found.right[1]}: difference "
        f"{100 * found.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}; {len(found.won)} only the "
        f"first has right, {len(found.lost)} only the second; exact McNemar p = {found.p_value:.2g})"
    )
    if low > 0:
        return f"{names[0]} is better. {numbers}"
    if high < 0:
        return f"{names[1]} is better. {numbers}"
    return f"No difference is proven. {numbers}"


def write_comparison(
    file: storage.Path,
    found: Comparison,
    predictions: tuple[Predictions, Predictions],
    *,
    names: Sequence[str],
    split: str,
    data: DatasetVersion | None,
) -> None:
    """Writes the page.

    Args:
      file: where to.
      found: how the two did.
      predictions: of the two.
      names: of the two.
      split: that both were asked about.
      data: the dataset, from which the pictures come; None where it is gone.

    Raises:
      DataError: a shard is damaged.
    """
    better = found.interval[0] > 0 or found.interval[1] < 0
    context = {
        "found": found,
        "names": names,
        "split": split,
        "verdict": verdict_of(found, names),
        "level": "green" if better else "amber",
        "rows": [
            {"name": f"{mark}: {name}", "right": right, "accuracy": right / found.pairs,
             "interval": wilson_interval(right, found.pairs)}
            for mark, name, right in zip("AB", names, found.right, strict=True)
        ],
        "won": _pictures(found.won, found, predictions, data, split, surest=1),
        "lost": _pictures(found.lost, found, predictions, data, split, surest=0),
        "labels": _by_label(found, predictions),
    }  # fmt: skip
    text = environment(__package__).get_template("comparison.html.j2").render(context)
    storage.write_atomically(file, text, shared=True)


def _pictures(
    positions: np.ndarray,
    found: Comparison,
    predictions: tuple[Predictions, Predictions],
    data: DatasetVersion | None,
    split: str,
    *,
    surest: int,
) -> list[Picture]:
    """Describes the images of which one model, number `surest`, was most wrongly sure."""
    one, other = predictions
    partner = dict(found.places.tolist())
    confidence = {
        int(at): float((one if surest == 0 else other).confidence[at if surest == 0 else partner[int(at)]])
        for at in positions
    }
    chosen = sorted(confidence, key=lambda at: -confidence[at])[:_SHOWN]
    records = find_records(data, split, [one.ids[at] for at in chosen]) if data else {}
    pictures = []
    for at in chosen:
        record = records.get(one.ids[at])
        pictures.append(
            Picture(
                label=one.names[one.labels[at]],
                first=_answer(one, at),
                second=_answer(other, partner[at]),
                source=record.source if record else "",
                uri=data_uri(record.image) if record else None,
            )
        )
    return pictures


def _answer(found: Predictions, at: int) -> str:
    return f"{found.names[found.predicted[at]]}, {percent(float(found.confidence[at]), 0)}"


def _by_label(found: Comparison, predictions: tuple[Predictions, Predictions]) -> list[dict[str, Any]]:
    one, other = predictions
    first, second = one.correct[found.places[:, 0]], other.correct[found.places[:, 1]]
    labels = one.labels[found.places[:, 0]]
    return [
        {
            "label": one.names[label],
            "images": int((labels == label).sum()),
            "first": int(first[labels == label].sum()),
            "second": int(second[labels == label].sum()),
            "only_first": int((first & ~second)[labels == label].sum()),
            "only_second": int((second & ~first)[labels == label].sum()),
        }
        for label in np.unique(labels)
        if label >= 0
    ]
