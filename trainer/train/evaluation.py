"""Evaluates exactly: every example counts once, whatever the batch size and the number of replicas."""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_BATCHES_A_CALL = 16  # at most
_SECONDS_A_CALL = 1.0  # a stop is heard between calls
_MOST_WHOLE = 120  # labels of a confusion matrix that is written whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Holds the metrics of one split.

    Attributes:
      examples: how many there are.
      loss: mean cross-entropy in nats, without label smoothing.
      confusion: int64 [C, C]; rows are the true labels.
    """

    examples: int
    loss: float
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """Returns the share of correct top-1 predictions."""
        return float(self.confusion.trace() / self.examples)

    @property
    def balanced_accuracy(self) -> float:
        """Returns the mean recall of the labels that the split has, as scikit-learn's `balanced_accuracy_score`."""
        totals = self.confusion.sum(axis=1)
        return float((self.confusion.diagonal()[totals > 0] / totals[totals > 0]).mean())

    @property
    def macro_f1(self) -> float:
        """Returns the mean F1 of the labels that occur or are predicted, as scikit-learn's `f1_score`."""
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return float((2 * self.confusion.diagonal()[either > 0] / either[either > 0]).mean())

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns plain values for result.json, with each label's accuracy (null where the split has none of it).

        The confusion matrix of many labels is nearly empty: it is given as [true label, predicted one, count] then.
        """
        totals, hits = self.confusion.sum(axis=1), self.confusion.diagonal()
        return {
            "examples": self.examples,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "per_class": [
                {"label": name, "examples": int(n), "correct": int(k), "accuracy": float(k / n) if n else None}
                for name, n, k in zip(labels, totals, hits, strict=True)
            ],
            **self._confusion(),
        }

    def _confusion(self) -> dict[str, Any]:
        if len(self.confusion) <= _MOST_WHOLE:
            return {"confusion": self.confusion.tolist()}
        at = np.nonzero(self.confusion)
        return {"confused": np.stack([*at, self.confusion[at]], axis=1).tolist()}


def compute_metrics(log_probabilities: np.ndarray, labels: np.ndarray) -> Metrics:
    """Computes the metrics of `log_probabilities` (float [N, C], nats) and true `labels` (int [N]), in float64."""
    count, classes = log_probabilities.shape
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, log_probabilities.argmax(axis=1)), 1)
    of_truth = log_probabilities[np.arange(count), labels].astype(np.float64)
    return Metrics(examples=count, loss=float(-of_truth.mean()), confusion=confusion)


class Evaluator:
    """Runs `forward` over whole splits on all replicas; compiled once, and does several batches a host call."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        forward: Callable[[tf.Tensor], tf.Tensor],
        images: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] = operator.itemgetter("image"),
    ) -> None:
        """Wraps `forward`, float32 [b, …] → float32 [b, …], in one function for all replicas.

        Args:
          strategy: whose replicas.
          forward: what is computed, of what `images` makes of a batch.
          images: finishes a batch's images, where the host has not done it.
        """
        self._strategy = strategy
        self._forward = forward
        self._images = images
        self._run = tf.function(self._steps, reduce_retracing=True)

    def __call__(
        self, data: Iterable[Any], *, batches: int, told: Callable[[int], object] = lambda done: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns outputs (float32 [N, …]) and labels (int32 [N]) in the order of the data, without the padding.

        Args:
          data: batches for all replicas, see `feed.distribute`.
          batches: how many there are. None is asked for beyond: the end of a dataset on another host is an error that
            comes at any later moment.
          told: is called with the number of examples that are done, each time there are more.
        """
        outputs, labels, done = [], [], 0
        for output, label in self.parts(data, batches=batches):
            outputs.append(output)
            labels.append(label)
            done += len(label)
            told(done)
        return np.concatenate(outputs), np.concatenate(labels)

    def parts(self, data: Iterable[Any], *, batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields what a call returns, part by part, each of whole batches; arguments as there."""
        iterator = iter(data)
        # Workers of TF_CONFIG do a call together, so a clock, of which each has its own, has no say.
        together = isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy)
        done, most = 0, _BATCHES_A_CALL if together else 1
        while done < batches:
            steps, started = min(most, batches - done), time.monotonic()
            output, label, weight = (tensor.numpy() for tensor in self._run(iterator, tf.constant(steps)))
            done += steps
            if time.monotonic() - started < _SECONDS_A_CALL / 2:
                most = min(2 * most, _BATCHES_A_CALL)
            yield output[weight > 0], label[weight > 0]

    def _steps(self, batches: Iterator[Mapping[str, tf.Tensor]], steps: tf.Tensor) -> list[tf.Tensor]:
        columns = [tf.TensorArray(kind, size=steps) for kind in (tf.float32, tf.int32, tf.float32)]
        for i in tf.range(steps):
            parts = self._strategy.run(self._replica_step, args=(next(batches),))
            whole = [self._strategy.gather(part, axis=0) for part in parts]
            columns = [column.write(i, values) for column, values in zip(columns, whole, strict=True)]
        return [column.concat() for column in columns]

    def _replica_step(self, batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return self._forward(self._images(batch)), batch["label"], batch["weight"]
