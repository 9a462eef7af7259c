"""Compares two models by their answers to the same images: which each won, and what that proves; NumPy only."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipeline.command import DataError
from pipeline.noninferiority import PairedCounts, lower_limit
from pipeline.predictions import Predictions

_ALPHA = 0.025  # of each end of the interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Holds how two models did on the images that both answered.

    Attributes:
      pairs: how many these are.
      left_out: images that only one of the two was asked about, or whose label has another name for each.
      right: how many each of the two got right.
      won: int [K], positions in the first one's predictions of images that only the first got right.
      lost: of those that only the second got right.
      places: int [pairs, 2], where the images stand in the two's predictions.
      p_value: two-sided, exact McNemar: that so uneven numbers come of equal models.
      interval: 95 %, of the first one's accuracy minus the second's, exact (see `pipeline.noninferiority`).
    """

    pairs: int
    left_out: int
    right: tuple[int, int]
    won: np.ndarray
    lost: np.ndarray
    places: np.ndarray
    p_value: float
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        """Returns the first one's accuracy minus the second's."""
        return (len(self.won) - len(self.lost)) / self.pairs


def compare(one: Predictions, other: Predictions) -> Comparison:
    """Compares two models' answers by the ids of the images; answers and true labels by their names.

    Raises:
      DataError: there is no image that both answered.
    """
    place = {image: index for index, image in enumerate(other.ids)}
    both = [(index, place[image]) for index, image in enumerate(one.ids) if image in place]
    both = [(a, b) for a, b in both if _truth(one, a) == _truth(other, b)]
    if not both:
        raise DataError("the two have no image in common: were they asked about the same split of the same dataset?")
    places = np.array(both)
    right = one.correct[places[:, 0]], other.correct[places[:, 1]]
    won, lost = places[right[0] & ~right[1], 0], places[right[1] & ~right[0], 0]
    counts = PairedCounts(pairs=len(both), wins=len(won), losses=len(lost))
    return Comparison(
        pairs=len(both),
        left_out=len(one.ids) + len(other.ids) - 2 * len(both),
        right=(int(right[0].sum()), int(right[1].sum())),
        won=won,
        lost=lost,
        places=places,
        p_value=mcnemar(len(won), len(lost)),
        interval=(lower_limit(counts, alpha=_ALPHA), -lower_limit(counts.swapped(), alpha=_ALPHA)),
    )


def _truth(found: Predictions, place: int) -> str | None:
    label = int(found.labels[place])
    return found.names[label] if label >= 0 else None


def mcnemar(wins: int, losses: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (1947): as even a coin would not fall more unevenly."""
    total = wins + losses
    tail = sum(math.comb(total, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)
