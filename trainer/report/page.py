"""Writes RUN/report.html and RUN/model_card.md from the files of a finished run. Free of TensorFlow.

The page is one file without scripts and without anything to download.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record
from trainer.report import charts, scores
from trainer.report.files import read_json, read_lines
from trainer.report.pictures import data_uri, find_records
from trainer.report.templates import environment

_GALLERY_MISTAKES, _GALLERY_UNSURE, _LISTED_CONFUSIONS = 24, 12, 15
_MOST_MATRIX_LABELS = 120  # a larger matrix shows nothing that the list of confusions does not
_MATRIX_LABEL = 26  # columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """Describes one predicted image; `uri` is a data: URI, None where the dataset no longer holds the image."""

    id: str
    label: str
    predicted: str
    probability: float
    source: str
    uri: str | None

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


def write_report(run: storage.Path, data: DatasetVersion) -> None:
    """Writes `report.html` and `model_card.md` into `run`.

    Args:
      run: holds result.json, metrics.jsonl, config.json, provenance.json and, if the dataset has a test or validation
        split, predictions-<split>.jsonl.
      data: the dataset that the run was made with; the thumbnails are read from its shards.

    Raises:
      UsageError: a file of the run is absent.
      DataError: a shard is damaged.
    """
    context = _context(run, data)
    pages = environment()
    for template, name in (("report.html.j2", "report.html"), ("model_card.md.j2", "model_card.md")):
        text = pages.get_template(template).render(context)
        storage.write_atomically(storage.join(run, name), text)


def _context(run: storage.Path, data: DatasetVersion) -> dict[str, Any]:
    result, settings = read_json(storage.join(run, "result.json")), read_json(storage.join(run, "config.json"))
    rows = read_lines(storage.join(run, "metrics.jsonl"))
    splits: dict[str, dict[str, Any]] = result["splits"]
    split = next((name for name in ("test", "validation") if name in splits), None)
    kept = result["best"] if result["best"] and settings["recipe"]["selection"] == "best" else rows[-1]
    context: dict[str, Any] = {
        "run": os.fspath(run),
        "result": result,
        "split": split,
        "splits": {name: _summary(result["labels"], metrics) for name, metrics in splits.items()},
        "curves": charts.learning_curves(rows, kept_step=kept["step"]),
        "kept": kept,
        "selected": kept["step"] != rows[-1]["step"],
        "phases": charts.phases(rows),
        "data": settings["data"],
        "seed": settings["seed"],
        "manifest": data.manifest,
        "configuration": flatten(settings["recipe"]),
        "provenance": (provenance := read_json(storage.join(run, "provenance.json"))),
        "duration": _duration(provenance["started"], provenance["finished"]),
    }
    if split is None:
        return context
    predictions = read_lines(storage.join(run, f"predictions-{split}.jsonl"))
    confidence = np.array([p["probability"] for p in predictions], float)
    correct = np.array([p["label"] == p["predicted"] for p in predictions], bool)
    confusion = _confusion(splits[split], len(result["labels"]))
    classes = scores.class_scores(result["labels"], confusion)
    bins = scores.reliability(confidence, correct)
    mistakes, unsure = gallery(predictions)
    records = find_records(data, split, {p["id"] for p in (*mistakes, *unsure)})
    return context | {
        "classes": sorted(classes, key=lambda c: (c.f1 is None, c.f1 or 0.0, c.label)),
        "weakest": min((c for c in classes if c.recall is not None), key=lambda c: (c.recall, -c.examples)),
        "majority": max(c.examples for c in classes) / confusion.sum(),
        "matrix": _matrix(result["labels"], confusion) if len(classes) <= _MOST_MATRIX_LABELS else None,
        "confusions": scores.most_confused(result["labels"], confusion, limit=_LISTED_CONFUSIONS),
        "num_mistakes": int((~correct).sum()),
        "mistakes": [_thumbnail(p, records.get(p["id"])) for p in mistakes],
        "unsure": [_thumbnail(p, records.get(p["id"])) for p in unsure],
        "bins": bins,
        "calibration_error": scores.calibration_error(bins),
        "mean_confidence": float(confidence.mean()),
        "reliability": charts.reliability_diagram(bins),
    }


def _summary(labels: Sequence[str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    examples = metrics["examples"]
    classes = scores.class_scores(labels, _confusion(metrics, len(labels)))
    return {
        "examples": examples,
        "accuracy": metrics["accuracy"],
        "loss": metrics["loss"],
        "interval": scores.wilson_interval(round(metrics["accuracy"] * examples), examples),
        "balanced_accuracy": float(np.mean([c.recall for c in classes if c.recall is not None])),
        "macro_f1": float(np.mean([c.f1 for c in classes if c.f1 is not None])),
    }


def gallery(predictions: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Picks the most confident mistakes, and the least confident of the other predictions; ties in file order."""
    mistakes = [p for p in predictions if p["label"] != p["predicted"]]
    surest = sorted(mistakes, key=lambda p: -p["probability"])[:_GALLERY_MISTAKES]
    shown = {p["id"] for p in surest}
    others = [p for p in predictions if p["id"] not in shown]
    return surest, sorted(others, key=lambda p: p["probability"])[:_GALLERY_UNSURE]


def _thumbnail(prediction: Mapping[str, Any], record: Record | None) -> Thumbnail:
    return Thumbnail(
        id=prediction["id"],
        label=prediction["label"],
        predicted=prediction["predicted"],
        probability=prediction["probability"],
        source=record.source if record else "not in this dataset version",
        uri=data_uri(record.image) if record else None,
    )


def _confusion(metrics: Mapping[str, Any], classes: int) -> np.ndarray:
    """Reads the confusion matrix, int64 [C, C], that `Metrics.to_dict` has written."""
    if "confusion" in metrics:
        return np.array(metrics["confusion"], np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    true, predicted, counts = np.array(metrics["confused"], np.int64).T
    confusion[true, predicted] = counts
    return confusion


def _matrix(labels: Sequence[str], confusion: np.ndarray) -> dict[str, Any]:
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


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flattens nested settings to `a.b.0.c` → value: the keys that `trainer.main --set` takes."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(index): v for index, v in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _duration(started: str, finished: str) -> str:
    start, end = (datetime.datetime.fromisoformat(t.replace("Z", "+00:00")) for t in (started, finished))
    seconds = round((end - start).total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
