"""Decides which weights a run keeps: the last, unless an earlier epoch's are better by more than luck.

Among many epochs on few validation images, the best score is mostly luck, and what is further down the cool-down is
better than it looks: `benchmarks/selection.py` shows what each rule loses.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer.train.evaluation import Metrics

LEVEL = 0.05  # how rarely luck alone may keep an earlier epoch's weights; see the benchmark
_DRAWS = 999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Holds what a model made of every example of a split.

    Attributes:
      labels: int [N], the true ones.
      predicted: int [N].
      losses: float [N], cross-entropy in nats.
    """

    labels: np.ndarray
    predicted: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, log_probabilities: np.ndarray, labels: np.ndarray) -> Outcomes:
        """Reads them out of log-probabilities, float [N, C]."""
        of_truth = log_probabilities[np.arange(len(labels)), labels]
        return cls(labels=labels, predicted=log_probabilities.argmax(axis=1), losses=-of_truth.astype(np.float64))


def as_score(value: float, by: str) -> float:
    """Returns a value of the metric `by` (one of `SELECTION_METRICS`) as a score, of which more is better."""
    return -value if by == "loss" else value


def score(metrics: Metrics, by: str) -> float:
    """Returns the metric `by` as a score, see `as_score`."""
    return as_score(getattr(metrics, by), by)


def luck(one: Outcomes, other: Outcomes, by: str) -> float:
    """Returns the p-value of `one` being better than `other` on the same examples, one-sided.

    A test by approximate randomisation (Noreen 1989; Yeh 2000, aclanthology.org/C00-2137): how often is the difference
    as large, if each example's two outcomes are exchanged by the toss of a coin? For accuracy that is McNemar's test.

    Args:
      one: of some weights.
      other: of other weights.
      by: one of `SELECTION_METRICS`.
    """
    differ = (one.predicted != other.predicted) | ((one.losses != other.losses) & (by == "loss"))
    if not differ.any():
        return 1.0
    rng = np.random.default_rng(0)
    if by == "macro_f1":
        exchanged = (rng.random(len(differ)) < 0.5 for _ in range(_DRAWS))
        found = [_macro_f1_gain(one, other, swap) for swap in exchanged]
        observed = _macro_f1_gain(one, other, np.zeros(len(differ), bool))
        return (1 + sum(gain >= observed - 1e-12 for gain in found)) / (1 + _DRAWS)
    gains = _gains(one, other, by)[differ]
    as_large = 0
    for _ in range(_DRAWS):
        as_large += gains @ rng.choice((-1.0, 1.0), len(gains)) >= gains.sum() - 1e-9
    return (1 + as_large) / (1 + _DRAWS)


def _gains(one: Outcomes, other: Outcomes, by: str) -> np.ndarray:
    """Returns, float [N], how much better `one` is on each example; their mean is the metric's difference."""
    if by == "loss":
        return other.losses - one.losses
    hits = (one.predicted == one.labels).astype(float) - (other.predicted == one.labels)
    if by == "accuracy":
        return hits
    counts = np.bincount(one.labels)
    return hits * len(hits) / (np.count_nonzero(counts) * counts[one.labels])


def _macro_f1_gain(one: Outcomes, other: Outcomes, swap: np.ndarray) -> float:
    first = np.where(swap, other.predicted, one.predicted)
    second = np.where(swap, one.predicted, other.predicted)
    return _macro_f1(one.labels, first) - _macro_f1(one.labels, second)


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    classes = int(max(labels.max(), predicted.max())) + 1
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * hits[either > 0] / either[either > 0]).mean())
