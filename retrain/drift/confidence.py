"""Says how sure a model is in service, beside how sure it was when it was evaluated. Information, no check. NumPy only.

The accuracy in service is estimated by the confidence: as much as the mean confidence differs from that of the
reference, the accuracy is taken to differ from the accuracy there (difference of confidences, Guillory et al. 2021,
arXiv 2107.03315, without their regression). The exported model's confidence is calibrated on validation images, which
is what the estimate rests on: of other labels in other shares, or of images that are harder to read, it is about right;
of images of another kind, of which the model may be wrong and sure, it is too high. It never replaces labels.
"""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np

from pipeline.format.answer_log import Answers
from pipeline.format.reference import Reference

_Z_95 = 1.959964
_UNSURE = 0.1  # share of the reference's answers that count as unsure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confidence:
    """Holds how sure a model is.

    Attributes:
      mean, mean_before: confidence of the answers, and of those of the reference.
      unsure, unsure_before: share of them that is less sure than `below`.
      below: the confidence that nine of ten answers of the reference reach.
      accuracy_before: of the reference; None where no true label is known.
      accuracy: share of the answers in service that are right, as estimated; None without that.
      interval: 95 %, of the chance of both samples alone, not of what the estimate takes for granted.
    """

    mean: float
    mean_before: float
    unsure: float
    unsure_before: float
    below: float
    accuracy_before: float | None
    accuracy: float | None
    interval: tuple[float, float] | None


def confidence(reference: Reference, probabilities: np.ndarray) -> Confidence:
    """Compares the confidence of answers, float [N, C] with N ≥ 1, with that of the reference."""
    before, now = (of.max(axis=1).astype(np.float64) for of in (reference.probabilities, probabilities))
    below = float(np.quantile(before, _UNSURE))
    known = reference.truth >= 0
    accuracy_before = accuracy = interval = None
    if known.any():
        right = (reference.probabilities.argmax(axis=1) == reference.truth)[known]
        accuracy_before = float(right.mean())
        gap = right - before[known]  # of what is right and what was said to be; in service as large, but for chance
        accuracy = float(np.clip(now.mean() + gap.mean(), 0, 1))
        error = _Z_95 * float(gap.std() * np.sqrt(1 / len(now) + 1 / len(gap)))
        interval = max(0.0, accuracy - error), min(1.0, accuracy + error)
    return Confidence(
        mean=float(now.mean()),
        mean_before=float(before.mean()),
        unsure=float((now < below).mean()),
        unsure_before=float((before < below).mean()),
        below=below,
        accuracy_before=accuracy_before,
        accuracy=accuracy,
        interval=interval,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Day:
    """Holds the answers of one day: its date (UTC), how many, their mean confidence, the share of unsure ones."""

    date: str
    answers: int
    confidence: float
    unsure: float


def days(answers: Answers, below: float) -> list[Day]:
    """Counts the answers of each day on which there are any, in order.

    Args:
      answers: of a model.
      below: the confidence below which an answer is unsure.
    """
    dates = np.array([datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat() for at in answers.seconds])
    sure = answers.probabilities.max(axis=1)
    found = []
    for date in np.unique(dates):
        of_day = sure[dates == date]
        mean, unsure = float(of_day.mean(dtype=np.float64)), float((of_day < below).mean())
        found.append(Day(date=str(date), answers=len(of_day), confidence=mean, unsure=unsure))
    return found
