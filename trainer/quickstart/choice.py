"""Decides which of two models is taken: by the images of validation that both answered, beyond chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from pipeline.intervals import wilson_interval
from pipeline.noninferiority import PairedCounts, p_value
from pipeline.pages.environment import percent
from pipeline.predictions import Predictions
from trainer.report.comparison import compare

_LEVEL = 0.05  # how rarely chance alone may be taken for a difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """Holds how two models did on the same images.

    Attributes:
      counts: wins are images that only the challenger has right.
      right: how many the challenger and the incumbent have right.
      better: exact p-value of the challenger being better by chance alone, one-sided (`pipeline.noninferiority`).
      worse: of its being worse.
    """

    counts: PairedCounts
    right: tuple[int, int]
    better: float
    worse: float

    @property
    def is_better(self) -> bool:
        return self.better <= _LEVEL

    @property
    def is_worse(self) -> bool:
        return self.worse <= _LEVEL

    @property
    def text(self) -> str:
        """Tells what the images prove."""
        of, counts = self.counts.pairs, self.counts
        if counts.wins == counts.losses:
            chance = "no difference"
        elif counts.wins > counts.losses:
            chance = f"by chance alone p = {self.better:.2g}"
        else:
            chance = f"worse by chance alone: p = {self.worse:.2g}"
        return (
            f"{self.right[0]} of {of} validation images right, {self.right[1]} before; {counts.wins} only now, "
            f"{counts.losses} only before: {chance}"
        )


def prove(challenger: Predictions, incumbent: Predictions, *, without: Collection[str] = ()) -> Proof:
    """Compares two models on the images that both answered.

    Args:
      challenger: its answers.
      incumbent: its answers.
      without: ids of images that the incumbent has learnt from.

    Raises:
      DataError: there is no image that both answered.
    """
    found = compare(_only(challenger, without), incumbent)
    counts = PairedCounts(pairs=found.pairs, wins=len(found.won), losses=len(found.lost))
    return Proof(
        counts=counts,
        right=found.right,
        better=p_value(counts, difference=0.0),
        worse=p_value(counts.swapped(), difference=0.0),
    )


def _only(answers: Predictions, without: Collection[str]) -> Predictions:
    kept = np.array([image not in without for image in answers.ids], bool)
    return dataclasses.replace(
        answers,
        ids=[image for image, keep in zip(answers.ids, kept, strict=True) if keep],
        labels=answers.labels[kept],
        log_probabilities=answers.log_probabilities[kept],
    )


def accuracy(answers: Predictions) -> str:
    """Tells how many answers are right, with half of the 95 % interval: `88.6 % right, ± 7`."""
    correct, images = int(answers.correct.sum()), len(answers.ids)
    low, high = wilson_interval(correct, images)
    return f"{percent(correct / images)} right, ± {50 * (high - low):.0f}"
