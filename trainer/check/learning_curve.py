"""Tells what more images would bring: the error of heads that learnt from a part of them, and a power law through it.

Hestness et al. 2017 (arXiv 1712.00409): the error falls as a power of the number of examples. NumPy only.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.linear.probe import FOLDS, out_of_fold

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the images that a fold's head may learn from
_REPEATS = 3  # parts drawn of each share but the whole
_RESAMPLES = 500
_STEEPEST = 1.0  # no steeper law was seen; few points would allow any


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Holds how often heads err, by how many images they have learnt from.

    Attributes:
      counts: float [S], images learnt from, rising.
      errors: float [S], shares of unseen images that are given a wrong label.
      intervals: float [S, 2], 95 %, by resampling the images.
      laws: float [R, 2], (log a, b) of error = a · images^−b for each resampling, the first for all images as they are.
    """

    counts: np.ndarray
    errors: np.ndarray
    intervals: np.ndarray
    laws: np.ndarray

    def error_at(self, count: float) -> np.ndarray:
        """Returns the error, float [R], that each law tells for so many images."""
        return np.exp(self.laws[:, 0] - self.laws[:, 1] * np.log(count))

    def gain(self, more: int, *, beside: int = 0) -> tuple[float, float, float]:
        """Tells by how much the error falls with so many more images: the best guess, and a 95 % interval.

        Args:
          more: images.
          beside: how many there are, where heads learnt from some of them only.
        """
        now = max(float(self.counts[-1]), beside)
        gains = self.error_at(now) - self.error_at(now + more)
        low, high = np.quantile(gains[1:], (0.025, 0.975))
        return float(gains[0]), float(low), float(high)


def measure(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, num_classes: int, strength: float, seed: int
) -> LearningCurve:
    """Measures the learning curve of heads; every image is asked about by heads that have not seen its fold.

    Args:
      features: float32 [N, F].
      labels: int [N].
      folds: int [N]; −1 is learnt from only.
      num_classes: C.
      strength: of the heads' l2.
      seed: of the parts and the resampling.
    """
    random = np.random.default_rng(seed)
    asked = folds >= 0
    wrong = np.zeros((len(SHARES), len(labels)))
    learnt, variances = np.zeros(len(SHARES)), []
    for number, share in enumerate(SHARES):
        repeats = _REPEATS if share < 1 else 1
        errors = []
        for _ in range(repeats):
            part = _ranks(labels, folds, random) < share
            found = out_of_fold(features, labels, folds, num_classes=num_classes, strength=strength, part=part)
            errors.append(found[asked].argmax(axis=1) != labels[asked])
            for fold in np.unique(folds[asked]):
                learnt[number] += np.count_nonzero(part & (folds != fold)) / repeats / FOLDS
        wrong[number, asked] = np.mean(errors, axis=0)
        if share < 1:
            variances.append(np.var(np.mean(errors, axis=1), ddof=1) * share / (1 - share))
    return _curve(learnt, wrong[:, asked], random, variance=float(np.mean(variances)))


def _ranks(labels: np.ndarray, folds: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Ranks the images of each label and fold at random, float [N] in [0, 1); the first of each label is 0."""
    rank = np.zeros(len(labels))
    for label in np.unique(labels):
        for fold in np.unique(folds[labels == label]):
            members = random.permutation(np.flatnonzero((labels == label) & (folds == fold)))
            rank[members] = np.arange(len(members)) / len(members)
    return rank


def _curve(
    counts: np.ndarray, wrong: np.ndarray, random: np.random.Generator, *, variance: float = 0.0
) -> LearningCurve:
    """Fits the laws.

    Args:
      counts: float [S], images learnt from.
      wrong: float [S, n], how often each image was given a wrong label by a share's heads.
      random: resamples.
      variance: of the error of heads that learn from other images of the same kind, as many as all.
    """
    images = wrong.shape[1]
    shares = np.array(SHARES)
    # An error is of the images that were learnt from, too: `_REPEATS` parts of the same ones have them in common.
    deviations = np.sqrt(variance / shares * ((1 - shares) / _REPEATS + shares))
    # Each share by itself: the shares' errors are of the same images, but of heads that learnt from other ones, and
    # resampled together that half of the chance would cancel out.
    resampled = [wrong.mean(axis=1)]
    for _ in range(_RESAMPLES):
        drawn = random.integers(images, size=wrong.shape)
        of_drawn = np.take_along_axis(wrong, drawn, axis=1).mean(axis=1)
        resampled.append(np.clip(of_drawn + deviations * random.standard_normal(len(shares)), 0.0, 1.0))
    errors = np.array(resampled)
    # Half an image more of each outcome: no error at all has no logarithm.
    laws = np.array([_law(counts, (row * images + 0.5) / (images + 1), images) for row in errors])
    return LearningCurve(
        counts=counts, errors=errors[0], intervals=np.quantile(errors[1:], (0.025, 0.975), axis=0).T, laws=laws
    )


def _law(counts: np.ndarray, errors: np.ndarray, images: int) -> tuple[float, float]:
    """Fits log error = log a − b · log count by least squares, weighted by what binomial noise allows."""
    x, y = np.log(counts), np.log(errors)
    weights = images * errors / (1 - errors)
    middle_x, middle_y = np.average(x, weights=weights), np.average(y, weights=weights)
    slope = np.sum(weights * (x - middle_x) * (y - middle_y)) / np.sum(weights * (x - middle_x) ** 2)
    power = float(np.clip(-slope, 0.0, _STEEPEST))  # more images never make a head worse in the long run
    return float(middle_y + power * middle_x), power
