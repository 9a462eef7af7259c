"""Asks linear heads about images that they have not seen: out-of-fold probabilities on a frozen backbone's features.

Images that look alike are in the same fold: a copy with the same wrong label would vouch for it. NumPy only.
"""

from __future__ import annotations

import numpy as np

from pipeline.linear.regression import fit_head

FOLDS = 5


def deal_folds(labels: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Deals groups of images to `FOLDS` folds, label by label.

    Args:
      labels: int [N].
      groups: int [N]; equal for images that look alike.
      seed: of the dealing.

    Returns:
      int [N], the fold in which an image is asked about; −1 where a label has one group only: a head that has never
      seen the label could not know it.
    """
    random = np.random.default_rng(seed)
    names, first, place = np.unique(groups, return_index=True, return_inverse=True)
    strata = labels[first]  # a group of several labels counts for that of its first image
    of_group = np.full(len(names), -1)
    for label in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == label))
        of_group[members] = (np.arange(len(members)) + random.integers(FOLDS)) % FOLDS
    folds = of_group[place]
    for label in np.unique(labels):
        of_label = labels == label
        if len(np.unique(folds[of_label])) == 1:
            folds[of_label] = -1
    return folds


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    *,
    num_classes: int,
    strength: float,
    part: np.ndarray | None = None,
) -> np.ndarray:
    """Returns log-probabilities (float32 [N, C], nats) of heads that have not seen the image's fold.

    Args:
      features: float32 [N, F].
      labels: int [N].
      folds: int [N], of `deal_folds`; rows of −1 are NaN.
      num_classes: C.
      strength: of the heads' l2, see `fit_head`.
      part: bool [N], the images that heads may learn from; None: all of them.
    """
    found = np.full((len(labels), num_classes), np.nan, np.float32)
    weights = np.ones(num_classes, np.float32)
    start = None
    for fold in range(FOLDS):
        unseen = folds == fold
        if not unseen.any():
            continue
        known = ~unseen if part is None else ~unseen & part
        start = fit_head(features[known], labels[known], class_weights=weights, strength=strength, start=start)
        found[unseen] = start.log_probabilities(features[unseen])
    return found
