"""Computes scores of a classifier from its confusion matrix and its confidences; NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipeline.intervals import wilson_interval

OFTEN = 3  # mistakes of one kind: fewer are chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Holds the scores of one class against the rest. A ratio without a denominator is None.

    Attributes:
      label: its name.
      examples: how many there are.
      predicted: how often it was predicted.
      correct: how often rightly.
      recall: correct / examples.
      precision: correct / predicted.
      f1: harmonic mean of the two.
      recall_interval: 95 %, Wilson.
    """

    label: str
    examples: int
    predicted: int
    correct: int
    recall: float | None
    precision: float | None
    f1: float | None
    recall_interval: tuple[float, float] | None


def class_scores(labels: Sequence[str], confusion: np.ndarray) -> list[ClassScore]:
    """Scores every class, in the order of `labels`, from `confusion` (int [C, C], rows are the true labels)."""
    _check_square(labels, confusion)
    scores = []
    for index, label in enumerate(labels):
        correct, examples = int(confusion[index, index]), int(confusion[index].sum())
        predicted = int(confusion[:, index].sum())
        scores.append(
            ClassScore(
                label=label,
                examples=examples,
                predicted=predicted,
                correct=correct,
                recall=correct / examples if examples else None,
                precision=correct / predicted if predicted else None,
                f1=2 * correct / (examples + predicted) if examples + predicted else None,
                recall_interval=wilson_interval(correct, examples) if examples else None,
            )
        )
    return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confusion:
    """Says that `count` of the `examples` of class `label` were taken for `predicted`."""

    label: str
    predicted: str
    count: int
    examples: int

    @property
    def share(self) -> float:
        return self.count / self.examples


def most_confused(labels: Sequence[str], confusion: np.ndarray, *, limit: int) -> list[Confusion]:
    """Lists the most frequent mistakes, by count, then by share."""
    _check_square(labels, confusion)
    totals = confusion.sum(axis=1).tolist()
    found = [
        Confusion(label=labels[i], predicted=labels[j], count=int(confusion[i, j]), examples=totals[i])
        for i, j in np.argwhere(confusion).tolist()
        if i != j
    ]
    return sorted(found, key=lambda c: (-c.count, -c.share, c.label, c.predicted))[:limit]


def _check_square(labels: Sequence[str], confusion: np.ndarray) -> None:
    if confusion.shape != (len(labels), len(labels)):
        raise ValueError(f"{len(labels)} labels need a square confusion matrix, got shape {confusion.shape}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceBin:
    """Sums up the examples whose confidence is in (low, high]: how sure the model was, how often it was right."""

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def reliability(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10) -> list[ConfidenceBin]:
    """Returns the bins of equal width that are not empty (Guo et al. 2017, arXiv 1706.04599).

    Args:
      confidence: float [N], probability of the predicted label, in [0, 1].
      correct: bool [N].
      bins: how many bins [0, 1] is cut into.
    """
    index = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in np.unique(index):
        inside = index == i
        count, hits = int(inside.sum()), int(correct[inside].sum())
        found.append(
            ConfidenceBin(
                low=float(i / bins),
                high=float((i + 1) / bins),
                examples=count,
                confidence=float(confidence[inside].mean()),
                accuracy=hits / count,
                interval=wilson_interval(hits, count),
            )
        )
    return found


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Computes the expected calibration error: mean gap of confidence and accuracy, weighted by the bins' examples."""
    total = sum(b.examples for b in bins)
    return sum(b.examples * abs(b.accuracy - b.confidence) for b in bins) / total
