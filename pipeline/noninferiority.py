"""Tests exactly for non-inferiority, and bounds the difference, of two models that answered the same images.

Both models answer the same `pairs` images. Only those on which exactly one of them is right tell them apart: `wins`
(only the challenger is right) and `losses` (only the champion is). The true difference of accuracy, challenger minus
champion, is P(win) − P(loss); its estimate is (wins − losses) / pairs.

Outcomes are ordered by the score statistic of Tango (1998), Statistics in Medicine 17:891–908. Its normal
approximation is not trusted: with few discordant images, the usual case between two good models, it lets a model that
is exactly the margin worse pass up to 6 % of the time at a nominal 5 % (280 images, margin 0.01). The p-value is
computed instead from the trinomial distribution itself and maximised over the nuisance parameter P(loss): the
unconditional exact test of Hsueh, Liu and Chen (2001), Biometrics 57:478–483, who show that the boundary of the null
hypothesis is the worst case. The interval inverts that test.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_GRID = 48  # points of the nuisance parameter looked at first; the best one is then refined
_REFINEMENTS = 3
_TAIL_SD = 8.5  # how many standard deviations of `wins` are summed; what lies outside is below 1e-12
_TIE = 1e-9  # outcomes whose statistics differ by less count as equal: rounding must not split ties
_TOLERANCE = 1e-6  # of the interval's limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """Counts how two models did on the same images.

    Attributes:
      pairs: number of images that both answered.
      wins: images that only the challenger got right.
      losses: images that only the champion got right.
    """

    pairs: int
    wins: int
    losses: int

    def __post_init__(self) -> None:
        if min(self.wins, self.losses) < 0 or self.wins + self.losses > self.pairs or self.pairs < 1:
            raise ValueError(f"impossible counts: {self.wins} wins and {self.losses} losses among {self.pairs} pairs")

    @property
    def difference(self) -> float:
        """Estimates the difference of accuracy, challenger minus champion."""
        return (self.wins - self.losses) / self.pairs

    def swapped(self) -> PairedCounts:
        """Returns the same outcomes with the roles of the two models exchanged."""
        return PairedCounts(pairs=self.pairs, wins=self.losses, losses=self.wins)


def score_statistic(wins: npt.ArrayLike, losses: npt.ArrayLike, pairs: int, difference: float) -> Array:
    """Computes Tango's score statistic of the hypothesis P(win) − P(loss) = `difference`.

    Large values speak for the challenger. Approximately standard normal under the hypothesis. Falls with `losses`,
    grows with `wins`, falls with `difference`.
    """
    wins, losses = np.asarray(wins, np.float64), np.asarray(losses, np.float64)
    # The maximum-likelihood P(loss) under the hypothesis: the larger root of 2n q² + b q + c = 0.
    b = -wins - losses + (2 * pairs - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    loss_rate = (np.sqrt(np.maximum(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
    variance = pairs * (2 * loss_rate + difference * (1 - difference))
    excess = wins - losses - pairs * difference
    # The variance vanishes only for difference = 0 without any discordant image: no evidence either way.
    return np.where(variance > 0, excess / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)


def _log_binomial(k: Array, n: Array | float, p: Array | float) -> Array:
    """Computes log P(Binomial(n, p) = k), elementwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 log 0 = 0: certain outcomes at p = 0 and p = 1.
        hit = np.where(k > 0, k * np.log(p), 0.0)
        miss = np.where(n - k > 0, (n - k) * np.log1p(-np.asarray(p)), 0.0)
    return _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k) + hit + miss


def _log_factorial(n: npt.ArrayLike) -> Array:
    n = np.asarray(n)
    values, places = np.unique(n, return_inverse=True)
    table = np.array([math.lgamma(value + 1.0) for value in values])
    return table[places].reshape(n.shape)


def _binomial_cdf(k: Array, n: Array, p: Array) -> Array:
    """Computes P(Binomial(n, p) ≤ k), elementwise; 0 for k < 0.

    It is the regularised incomplete beta function I(1−p; n−k, k+1), by its continued fraction, modified Lentz method
    (DLMF 8.17.22; Numerical Recipes 6.4): a few dozen terms even for large n, where summing would need k of them.
    """
    k, n, p = np.broadcast_arrays(k, n, p)
    result = np.where(k < 0, 0.0, 1.0)
    inside = (k >= 0) & (k < n) & (p > 0)
    if not inside.any():
        return result
    certain = inside & (p >= 1)
    result = np.where(certain, 0.0, result)
    inside &= p < 1
    a, b, x = (n - k)[inside], (k + 1)[inside], 1.0 - p[inside]
    # The fraction converges fast only below the mean; above it, I(x; a, b) = 1 − I(1−x; b, a).
    flip = x > (a + 1) / (a + b + 2)
    a, b, x = np.where(flip, b, a), np.where(flip, a, b), np.where(flip, 1 - x, x)
    tiny = 1e-300
    c, d = np.ones_like(x), 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    fraction = d.copy()
    for m in range(1, 20_000):
        change = np.ones_like(x)
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + coefficient * d
            d = 1 / np.where(np.abs(d) < tiny, tiny, d)
            c = 1 + coefficient / c
            c = np.where(np.abs(c) < tiny, tiny, c)
            change = d * c
            fraction = fraction * change
        if np.max(np.abs(change - 1)) < 1e-14:
            break
    log_front = _log_factorial(a + b - 1) - _log_factorial(a - 1) - _log_factorial(b - 1)
    log_front += a * np.log(x) + b * np.log1p(-x) - np.log(a)
    lower = np.exp(log_front) * fraction
    result[inside] = np.where(flip, 1 - lower, lower)
    return result


def _most_losses(counts: PairedCounts, difference: float) -> npt.NDArray[np.int64]:
    """Finds, for each number of wins 0..pairs, the most losses that speak at least as much for the challenger.

    As much as the observed outcome does; −1 where none do. The statistic falls with the losses, so bisection finds the
    edge of the tail.
    """
    pairs = counts.pairs
    observed = score_statistic(counts.wins, counts.losses, pairs, difference) - _TIE
    wins = np.arange(pairs + 1)
    low, high = np.full(pairs + 1, -1), pairs - wins  # in the tail (or nothing is); perhaps in the tail
    while np.any(low < high):
        middle = (low + high + 1) // 2
        extreme = score_statistic(wins, middle, pairs, difference) >= observed
        low, high = np.where(extreme, middle, low), np.where(extreme, high, middle - 1)
    return low


def _tail_probability(edge: npt.NDArray[np.int64], pairs: int, difference: float, loss_rates: Array) -> Array:
    """Computes P(losses ≤ edge[wins]) under P(loss) = loss_rates and P(win) = loss_rates + difference.

    The result has the shape of `loss_rates`.
    """
    win_rates = np.clip(loss_rates + difference, 0.0, 1.0)[:, None]
    spread = np.sqrt(pairs * win_rates * (1 - win_rates))
    width = min(pairs, int(2 * _TAIL_SD * spread.max()) + 60)
    first = np.clip(np.floor(pairs * win_rates - width / 2), 0, pairs - width)
    wins: Array = first + np.arange(width + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        conditional = np.clip(np.where(win_rates < 1, loss_rates[:, None] / (1 - win_rates), 0.0), 0.0, 1.0)
    weight = np.exp(_log_binomial(wins, float(pairs), win_rates))
    below = _binomial_cdf(edge[wins.astype(np.int64)].astype(np.float64), pairs - wins, conditional)
    return np.sum(weight * below, axis=1)


def p_value(counts: PairedCounts, *, difference: float) -> float:
    """Computes the exact one-sided p-value against the hypothesis that the true difference is `difference` or lower.

    Args:
      counts: what was observed.
      difference: −margin for non-inferiority; in (−1, 1).

    Returns:
      The largest probability, over all P(loss), of an outcome that speaks at least as much for the challenger.
    """
    if not -1 < difference < 1:
        raise ValueError(f"difference must lie between -1 and 1, got {difference}")
    edge = _most_losses(counts, difference)
    low, high = max(0.0, -difference), (1 - difference) / 2
    # Dense near `low`, where few discordant images are expected and the probability changes fastest.
    rates = low + (high - low) * np.linspace(0.0, 1.0, _GRID) ** 2
    for _ in range(_REFINEMENTS + 1):
        tail = _tail_probability(edge, counts.pairs, difference, rates)
        best = int(np.argmax(tail))
        rates = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)], 9)
    return min(1.0, float(tail.max()))


def lower_limit(counts: PairedCounts, *, alpha: float, start: float = 0.0) -> float:
    """Computes the one-sided lower confidence limit, level 1 − alpha, of the true difference: inverts the exact test.

    Args:
      counts: what was observed.
      alpha: probability, at most, that the true difference lies below the limit.
      start: where to look first. The p-value need not grow everywhere with the difference; starting at −margin makes
        "the limit is above −margin" and "the p-value at −margin is at most alpha" the same statement.
    """
    edge = 1 - 1e-9
    start = min(max(start, -edge), edge)
    if p_value(counts, difference=start) <= alpha:
        rejected, kept = start, max(start, counts.difference)
        if p_value(counts, difference=min(kept, edge)) <= alpha:  # cannot reject the estimate itself, but for rounding
            return kept
    else:
        rejected, kept = -edge, start
        if p_value(counts, difference=rejected) > alpha:
            return -1.0
    while kept - rejected > _TOLERANCE:
        middle = (rejected + kept) / 2
        if p_value(counts, difference=middle) <= alpha:
            rejected = middle
        else:
            kept = middle
    return rejected


def images_for_power(discordance: float, *, margin: float, alpha: float, power: float) -> int:
    """Counts, about, the images on which two equally good models are told not to differ by `margin`, so often.

    By the normal approximation of the paired difference, whose variance a pair is the discordance.

    Args:
      discordance: share of images that exactly one of the two answers rightly, above 0.
      margin: of non-inferiority.
      alpha: level of the test.
      power: how often it is to succeed.
    """
    normal = statistics.NormalDist()
    deviations = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)
    return max(images_needed(margin=margin, alpha=alpha), math.ceil(discordance * (deviations / margin) ** 2))


def images_needed(*, margin: float, alpha: float) -> int:
    """Counts the images needed before two models with equal answers can be told not to differ by `margin`.

    With no discordant image at all, the probability of seeing none under P(loss) = margin is (1 − margin)^n.
    """
    return math.ceil(math.log(alpha) / math.log1p(-margin))
