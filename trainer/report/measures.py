"""Measures a model by its answers to a split: all figures of an evaluation, from files alone; NumPy only.

Equal to scikit-learn's, where it has them. Labels that the model does not know count as wrong, and not where only the
probability of the true label matters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.intervals import difference_interval, wilson_interval
from pipeline.predictions import Predictions
from trainer.report import scores

_TOP = (2, 3, 5)
WANTED = 0.95  # accuracy at which a model may answer rather than say "unsure"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Compares a part of the images with the rest.

    Attributes:
      name: of the part.
      examples: in it.
      accuracy: in it.
      interval: 95 %, Wilson.
      rest: accuracy elsewhere.
      difference: 95 % interval of the part's accuracy minus the rest's, Newcombe.
    """

    name: str
    examples: int
    accuracy: float
    interval: tuple[float, float]
    rest: float
    difference: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """Says how often a model may answer if it is to be right so often.

    Attributes:
      wanted: accuracy of the answers.
      threshold: of the confidence, from which on it answers; None where no threshold reaches the accuracy.
      coverage: share of images that it answers to.
      accuracy: of these answers; None where there is none.
    """

    wanted: float
    threshold: float | None
    coverage: float
    accuracy: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelMeasures:
    """Holds the figures of one label; None where there is nothing to divide by."""

    label: str
    examples: int
    recall: float | None
    recall_interval: tuple[float, float] | None
    precision: float | None
    precision_interval: tuple[float, float] | None
    f1: float | None
    average_precision: float | None

    @property
    def correct(self) -> int:
        """Counts the images of the label that were found."""
        return round((self.recall or 0.0) * self.examples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """Holds the figures of an evaluation.

    Attributes:
      examples: how many images.
      accuracy: share of right answers.
      interval: 95 %, Wilson.
      top: k → share of images whose label is among the k likeliest; only k below the number of labels.
      balanced_accuracy: mean recall of the labels that occur.
      macro_f1: mean F1 of the labels that occur or are predicted.
      log_loss: mean −log probability of the true label, nats.
      brier: mean squared distance of the probabilities from the truth, summed over the labels (0 to 2).
      calibration_error: expected, 10 bins of equal width.
      uncalibrated_error: the same at temperature 1.
      uncalibrated_log_loss: the log-loss at temperature 1.
      labels: figures of each label, in order.
      coverage: at which threshold answers are right often enough.
    """

    examples: int
    accuracy: float
    interval: tuple[float, float]
    top: Mapping[int, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float
    uncalibrated_error: float
    uncalibrated_log_loss: float
    labels: Sequence[LabelMeasures]
    coverage: Coverage

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return dataclasses.asdict(self) | {"top": {str(k): share for k, share in self.top.items()}}


def measure(found: Predictions, *, validation: Predictions | None = None) -> Measures:
    """Measures the answers to at least one image.

    Args:
      found: the answers.
      validation: answers to other images, on which the threshold of the coverage is chosen; None: on these themselves.
    """
    labels, count, classes = found.labels, len(found.labels), len(found.names)
    known = labels >= 0
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[known], found.predicted[known]), 1)
    hits = int(found.correct.sum())
    at_one = at_temperature(found, 1.0)
    per_label = _label_measures(found, confusion)
    return Measures(
        examples=count,
        accuracy=hits / count,
        interval=wilson_interval(hits, count),
        top={k: top_k(found, k) for k in _TOP if k < classes},
        balanced_accuracy=float(np.mean([one.recall for one in per_label if one.recall is not None])),
        macro_f1=float(np.mean([one.f1 for one in per_label if one.f1 is not None])),
        log_loss=log_loss(found),
        brier=brier(found),
        calibration_error=calibration_error(found),
        uncalibrated_error=calibration_error(at_one),
        uncalibrated_log_loss=log_loss(at_one),
        labels=per_label,
        coverage=coverage_at(found, threshold_for(validation or found, WANTED), WANTED),
    )


def at_temperature(found: Predictions, temperature: float) -> Predictions:
    """Returns the answers that the same logits give at another temperature."""
    logits = found.log_probabilities.astype(np.float64) * (found.temperature / temperature)
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return dataclasses.replace(found, log_probabilities=normalised, temperature=temperature)


def top_k(found: Predictions, k: int) -> float:
    """Returns the share of images whose label is among the k likeliest."""
    known = found.labels >= 0
    rows = found.log_probabilities[known]
    own = rows[np.arange(len(rows)), found.labels[known]]
    return float(((rows > own[:, np.newaxis]).sum(axis=1) < k).sum() / len(found.labels))


def of_truth(found: Predictions) -> np.ndarray:
    """Returns the log-probability of the true label, float64 [n], of the images whose label the model knows."""
    known = found.labels >= 0
    return found.log_probabilities[known][np.arange(known.sum()), found.labels[known]].astype(np.float64)


def log_loss(found: Predictions) -> float:
    """Returns the mean −log probability of the true label, nats."""
    return float(-of_truth(found).mean())


def brier(found: Predictions) -> float:
    """Returns the Brier score (1950): the mean squared distance of the probabilities from the truth."""
    known = found.labels >= 0
    probabilities = np.exp(found.log_probabilities[known].astype(np.float64))
    truth = np.exp(of_truth(found))
    return float(((probabilities**2).sum(axis=1) - 2 * truth + 1).mean())


def calibration_error(found: Predictions) -> float:
    """Returns the expected calibration error of the predicted labels' confidence."""
    return scores.calibration_error(scores.reliability(found.confidence, found.correct))


def threshold_for(found: Predictions, wanted: float) -> float | None:
    """Returns the lowest confidence from which on answers are right so often; None where none are."""
    order = np.argsort(-found.confidence, kind="stable")
    confidence = found.confidence[order]
    accuracy = np.cumsum(found.correct[order]) / np.arange(1, len(order) + 1)
    # Equals are answered together.
    ends = np.append(confidence[1:] < confidence[:-1], True)
    good = np.flatnonzero(ends & (accuracy >= wanted))
    return float(confidence[good[-1]]) if len(good) else None


def coverage_at(found: Predictions, threshold: float | None, wanted: float) -> Coverage:
    """Says what becomes of images if only answers of so much confidence count."""
    answered = np.zeros(len(found.labels), bool) if threshold is None else found.confidence >= threshold
    accuracy = float(found.correct[answered].mean()) if answered.any() else None
    return Coverage(wanted=wanted, threshold=threshold, coverage=float(answered.mean()), accuracy=accuracy)


def precision_recall(found: Predictions, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision and recall, float [n] each, as more and more images are given a label, the likeliest first."""
    score = found.log_probabilities[:, label]
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(found.labels[order] == label)
    ends = np.append(np.diff(score[order]) != 0, True)
    given = np.arange(1, len(order) + 1)
    return (hits / given)[ends], (hits / max(1, hits[-1]))[ends]


def average_precision(found: Predictions, label: int) -> float | None:
    """Returns the area below the precision–recall curve of a label, as a sum of steps; None without images of it."""
    if not np.any(found.labels == label):
        return None
    precision, recall = precision_recall(found, label)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _label_measures(found: Predictions, confusion: np.ndarray) -> list[LabelMeasures]:
    return [
        LabelMeasures(
            label=one.label,
            examples=one.examples,
            recall=one.recall,
            recall_interval=one.recall_interval,
            precision=one.precision,
            precision_interval=wilson_interval(one.correct, one.predicted) if one.predicted else None,
            f1=one.f1,
            average_precision=average_precision(found, index),
        )
        for index, one in enumerate(scores.class_scores(found.names, confusion))
    ]


def slices(found: Predictions, parts: Mapping[str, np.ndarray]) -> list[Slice]:
    """Compares parts of the images with the others.

    Args:
      found: the answers.
      parts: name → bool [N], which images are in it, some and not all.
    """
    compared = []
    for name, inside in parts.items():
        counts = [(int(found.correct[part].sum()), int(part.sum())) for part in (inside, ~inside)]
        compared.append(
            Slice(
                name=name,
                examples=counts[0][1],
                accuracy=counts[0][0] / counts[0][1],
                interval=wilson_interval(*counts[0]),
                rest=counts[1][0] / counts[1][1],
                difference=difference_interval(*counts),
            )
        )
    return compared
