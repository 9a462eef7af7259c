"""Compares images that are new in a version with those that were there before: what they show, how they are labelled.

NumPy only.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.shift import Shift, in_both, maximum_mean_discrepancy, sample_positions, separability

_COMPARED = 1_000  # images of each group, at most: every pair is looked at
_FEWEST = 5  # new images, below which nothing can be said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Holds how new images differ from those before them, label by label.

    Attributes:
      new: how many were looked at.
      compared: how many of them are of a label that there was before; at most `_COMPARED` are drawn.
      pixels: how far their features are from those before (MMD); None of fewer than `_FEWEST`.
      separable: how well a classifier tells them from those before: the area under its ROC curve, 0.5 is chance; None
        of fewer than `_FEWEST`.
      doubted: new images whose label looks wrong to heads that have not seen them, and how many were asked about.
      doubted_before: the same of the others.
    """

    new: int
    compared: int
    pixels: Shift | None
    separable: float | None
    doubted: tuple[int, int]
    doubted_before: tuple[int, int]


def compare_arrivals(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    new: np.ndarray,
    *,
    asked: np.ndarray,
    doubted: np.ndarray,
    strength: float,
    seed: int,
) -> Arrivals:
    """Compares new images with the others.

    Args:
      features: float32 [N, F].
      labels: int [N].
      groups: int [N]; equal for images that look alike.
      new: bool [N].
      asked: bool [N], images whose labels heads were asked about.
      doubted: bool [N], those whose label looks wrong.
      strength: of the classifier's l2, see `fit_head`.
      seed: of what is drawn, dealt and permuted.
    """
    known = np.flatnonzero(in_both(labels, new))
    at = known[sample_positions(new[known], most=_COMPARED, seed=seed)]
    compared = int(new[at].sum())
    pixels = separable = None
    if compared >= _FEWEST:
        pixels = maximum_mean_discrepancy(features[at], labels[at], new[at], seed=seed)
        separable = separability(features[at], labels[at], groups[at], new[at], strength=strength, seed=seed)
    counts = [(int((doubted & part).sum()), int((asked & part).sum())) for part in (new, ~new)]
    return Arrivals(
        new=int(new.sum()),
        compared=compared,
        pixels=pixels,
        separable=separable,
        doubted=counts[0],
        doubted_before=counts[1],
    )
