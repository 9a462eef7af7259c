"""Tests for non-inferiority, and bounds the difference, of models whose answers are averaged over several seeds.

Of each image there is one number: in how many of the challenger's seeds the answer is right, less whether the
champion's is. It lies in [−1, 1] on a grid of 1/seeds, and its mean is the expected difference of accuracy.

No exact test is known for such sums. This one resamples: the images' numbers, and one more of −1, which no sample may
rule out, are tilted exponentially until their mean is the hypothesis (Efron 1981, Canadian Journal of Statistics
9:139–158; least favourable family), and the probability that so many draws of them have as large a mean is computed by
convolution, not drawn. Where all answers agree it is (1 − margin)^images, as of the exact test of
`pipeline.noninferiority`. Its level was checked by simulation (`benchmarks.model_gate`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_BISECTIONS = 60
_TOLERANCE = 1e-5  # of the limits
_ROUNDING = 1e-9


def p_value(differences: Array, *, seeds: int, difference: float) -> float:
    """Computes the one-sided p-value against the hypothesis that the true mean is `difference` or lower.

    Args:
      differences: float [images], multiples of 1/seeds in [−1, 1].
      seeds: that they are averages of.
      difference: −margin for non-inferiority; in (−1, 1).
    """
    if not -1 < difference < 1:
        raise ValueError(f"difference must lie between -1 and 1, got {difference}")
    grid = np.round(np.asarray(differences) * seeds).astype(int) + seeds
    weights = np.bincount([0, *grid], minlength=2 * seeds + 1).astype(np.float64)
    values = np.arange(-seeds, seeds + 1) / seeds
    if difference >= values[np.flatnonzero(weights)].max():  # nothing that was seen is as good
        return 1.0
    law = _tilted(weights / weights.sum(), values, difference)
    return _upper_tail(law, draws=len(grid), total=int(grid.sum()))


def _tilted(law: Array, values: Array, mean: float) -> Array:
    """Returns the distribution nearest to `law` (in relative entropy) that has this mean."""
    low, high = -1e4, 1e4
    seen = law > 0
    result = law
    for _ in range(_BISECTIONS):
        tilt = (low + high) / 2
        exponent = np.where(seen, np.log(np.where(seen, law, 1.0)) + tilt * values, -np.inf)
        result = np.exp(exponent - exponent.max())
        result /= result.sum()
        low, high = (tilt, high) if result @ values < mean else (low, tilt)
    return result


def _upper_tail(law: Array, *, draws: int, total: int) -> float:
    """Returns the probability that the sum of so many draws of 0, 1 … is `total` or more."""
    length = draws * (len(law) - 1) + 1
    size = 1 << (length - 1).bit_length()
    sums = np.fft.irfft(np.fft.rfft(law, size) ** draws, size)[:length]
    return float(min(1.0, max(0.0, sums[total:].sum())))


def lower_limit(differences: Array, *, seeds: int, alpha: float) -> float:
    """Computes the one-sided lower confidence limit, level 1 − alpha, of the mean: inverts the test."""
    low, high = -1 + _ROUNDING, min(1 - _ROUNDING, float(np.mean(differences)))
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(differences, seeds=seeds, difference=middle) <= alpha else (low, middle)
    return low


def upper_limit(differences: Array, *, seeds: int, alpha: float) -> float:
    """Computes the upper confidence limit, as `lower_limit` does."""
    return -lower_limit(-np.asarray(differences), seeds=seeds, alpha=alpha)
