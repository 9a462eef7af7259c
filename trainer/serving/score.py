"""Scores an exported model on a split of a dataset, and writes what it answered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from trainer.report.predictions import Predictions
from trainer.serving.signature import load_signature


def prediction_row(*, key: str, label: str, predicted: str, probability: float) -> dict[str, Any]:
    """Makes a row of predictions-<split>.jsonl; `key`: the record's id, `probability`: that of the predicted label."""
    return {"id": key, "label": label, "predicted": predicted, "probability": probability}


def prediction_rows(found: Predictions) -> list[dict[str, Any]]:
    """Returns the rows of predictions, in their order."""
    return [
        prediction_row(key=key, label=found.names[label], predicted=found.names[answer], probability=float(confidence))
        for key, label, answer, confidence in zip(
            found.ids, found.labels, found.predicted, found.confidence, strict=True
        )
    ]


def write_predictions(file: storage.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON line per example, in file order."""
    storage.write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def score_export(model: storage.Path, data: DatasetVersion, split: str, *, batch_size: int) -> list[dict[str, Any]]:
    """Returns a prediction row for every example of a split, in file order.

    Args:
      model: an export directory; its labels may differ from the dataset's, they are compared by name.
      data: the dataset.
      split: name of the split.
      batch_size: images per call.

    Raises:
      UsageError: no such split, or no exported model.
      DataError: a damaged shard.
    """
    signature = load_signature(model)
    names = data.manifest.labels
    examples = data.read(split)
    rows: list[dict[str, Any]] = []
    while batch := list(itertools.islice(examples, batch_size)):
        result = signature([record.image for record in batch])
        best = result["probabilities"].max(axis=-1)
        rows += [
            prediction_row(
                key=record.id, label=names[record.label], predicted=label.decode(), probability=float(probability)
            )
            for record, label, probability in zip(batch, result["label"], best, strict=True)
        ]
    return rows
