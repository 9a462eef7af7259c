"""Evaluates exactly: every example counts once, whatever the batch size and the number of replicas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batching import HostSlice
from trainer.train.feed import distribute

_EPSILON = 1e-12  # a probability of 0 in float32 must not make the loss infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Holds the metrics of one split.

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
        """Returns plain values for result.json, with each label's accuracy (null where the split has none of it)."""
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
    """Computes the metrics of `probabilities` (float [N, C]) and true `labels` (int [N]), in float64."""
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
        """Wraps `forward`, which maps float32 [b, …] to float32 [b, …], in one function for all replicas."""
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
