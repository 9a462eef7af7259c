"""Scores an exported model on a split of a dataset, and writes what it answered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.predictions import Predictions
from pipeline.progress import counted
from trainer.serving.signature import load_signature, read_labels


def prediction_rows(found: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the rows of predictions-<split>.jsonl: id, true label, predicted label and its probability.

    Args:
      found: the answers.
      labels: the true label of each image; the model need not know it.
    """
    return [
        {"id": key, "label": label, "predicted": found.names[answer], "probability": float(confidence)}
        for key, label, answer, confidence in zip(found.ids, labels, found.predicted, found.confidence, strict=True)
    ]


def write_predictions(file: storage.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON line per example, in file order."""
    storage.write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), shared=True)


def score_export(
    model: storage.Path, data: DatasetVersion, split: str, *, batch_size: int
) -> tuple[Predictions, list[str]]:
    """Returns what an exported model answers to a split, in file order, and the true labels.

    Args:
      model: an export directory; its labels may differ from the dataset's, they are compared by name.
      data: the dataset.
      split: name of the split.
      batch_size: images per call.

    Raises:
      UsageError: no such split, or no exported model.
      DataError: a damaged shard.
    """
    signature, names = load_signature(model), read_labels(model)
    examples = counted(data.read(split), f"asking about {split}", total=data.manifest.num_examples(split))
    ids, labels, answers = [], [], []
    while batch := list(itertools.islice(examples, batch_size)):
        answers.append(signature([record.image for record in batch])["probabilities"])
        ids += [record.id for record in batch]
        labels += [data.manifest.labels[record.label] for record in batch]
    place = {name: index for index, name in enumerate(names)}
    found = Predictions(
        ids=ids,
        labels=np.array([place.get(label, -1) for label in labels]),
        names=names,
        log_probabilities=np.log(np.maximum(np.concatenate(answers), np.finfo(np.float32).tiny)),
    )
    return found, labels
