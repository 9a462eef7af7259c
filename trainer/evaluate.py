r"""Exact evaluation: every example counts once, whatever the batch size and the number of replicas.

As a command it scores an exported model, this run's or another's, on a split of a dataset:

    python -m trainer.evaluate --model=RUN/export --data=DATA --split=test --output=predictions.jsonl
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from etils import epath

from pipeline.command import DataError, run_command
from pipeline.dataset import HostSlice
from pipeline.format.manifest import DatasetVersion, open_dataset
from pipeline.format.storage import write_atomically
from trainer.feed import distribute
from trainer.predict import load_signature

FLAGS = flags.FLAGS

_EPSILON = 1e-12  # a probability of 0 in float32 must not make the loss infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Of one split.

    Attributes:
      examples: how many there are.
      loss: mean cross-entropy in nats, without label smoothing.
      accuracy: share of correct top-1 predictions.
      confusion: int64 [C, C]; rows are the true labels.
    """

    examples: int
    loss: float
    accuracy: float
    confusion: np.ndarray

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Plain values for result.json, with the accuracy of each label (null where the split has none of it)."""
        totals, hits = self.confusion.sum(axis=1), self.confusion.diagonal()
        return {
            "examples": self.examples,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "per_class": [
                {"label": name, "examples": int(n), "correct": int(k), "accuracy": float(k / n) if n else None}
                for name, n, k in zip(labels, totals, hits, strict=True)
            ],
            "confusion": self.confusion.tolist(),
        }


def compute_metrics(probabilities: np.ndarray, labels: np.ndarray) -> Metrics:
    """Metrics from `probabilities` (float [N, C]) and true `labels` (int [N]), in float64."""
    count, classes = probabilities.shape
    of_truth = probabilities[np.arange(count), labels].astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Metrics(
        examples=count,
        loss=float(-np.log(np.maximum(of_truth, _EPSILON)).mean()),
        accuracy=float((predicted == labels).mean()),
        confusion=confusion,
    )


class Evaluator:
    """Runs `forward` over whole splits on all replicas; compiled once."""

    def __init__(self, strategy: tf.distribute.Strategy, forward: Callable[[tf.Tensor], tf.Tensor]) -> None:
        """`forward`: float32 [b, …] → float32 [b, …]."""
        self._strategy = strategy

        def run(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            outputs = strategy.run(lambda b: (forward(b["image"]), b["label"], b["weight"]), args=(batch,))
            return tuple(strategy.gather(output, axis=0) for output in outputs)

        self._run = tf.function(run)

    def __call__(self, make_dataset: Callable[[HostSlice], tf.data.Dataset]) -> tuple[np.ndarray, np.ndarray]:
        """Returns outputs (float32 [N, …]) and labels (int32 [N]) in the order of the data, without the padding."""
        outputs, labels = [], []
        for batch in distribute(self._strategy, make_dataset):
            output, label, weight = (tensor.numpy() for tensor in self._run(batch))
            outputs.append(output[weight > 0])
            labels.append(label[weight > 0])
        return np.concatenate(outputs), np.concatenate(labels)


def prediction_row(*, key: str, label: str, predicted: str, probability: float) -> dict[str, Any]:
    """A row of predictions-<split>.jsonl; `key` is the record's id, `probability` that of the predicted label."""
    return {"id": key, "label": label, "predicted": predicted, "probability": probability}


def write_predictions(file: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON line per example, in file order."""
    write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def score_export(model: epath.PathLike, data: DatasetVersion, split: str, *, batch_size: int) -> list[dict[str, Any]]:
    """Prediction rows of every example of a split, in file order.

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


def main(arguments: list[str]) -> int | None:
    del arguments
    data = open_dataset(FLAGS.data)
    rows = score_export(FLAGS.model, data, FLAGS.split, batch_size=32)
    if not rows:
        raise DataError(f"{data.path}: split {FLAGS.split} has no examples")
    write_predictions(epath.Path(FLAGS.output), rows)
    hits = sum(row["label"] == row["predicted"] for row in rows)
    print(f"{FLAGS.split}: accuracy {hits / len(rows):.4f}, {len(rows)} images, predictions in {FLAGS.output}")
    return None


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", None, "An export directory, as trainer.main and trainer.export write it.", required=True
    )
    flags.DEFINE_string("data", None, "Dataset root, or one version directory.", required=True)
    flags.DEFINE_string("split", "test", "Which split to score.")
    flags.DEFINE_string(
        "output", None, "The JSON lines file to write: id, label, predicted, probability.", required=True
    )
    run_command(main)
