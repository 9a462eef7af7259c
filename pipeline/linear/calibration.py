"""Finds the temperature that makes probabilities mean what they say (Guo et al. 2017, arXiv 1706.04599); NumPy only."""

from __future__ import annotations

import numpy as np

_MOST_EXAMPLES = 10_000  # more would not move the third digit
# Of log T around 0. Where all of few images are right, likelihood alone would take the smallest temperature there is.
_PRIOR_DEVIATION = 0.5
_GRID = np.linspace(-2.0, 2.0, 65)


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature T with the highest posterior, by which logits are to be divided; 1.0 without examples.

    Args:
      log_probabilities: float [N, C], nats; logits do as well.
      labels: int [N], the true ones.
    """
    if not len(labels):
        return 1.0
    step = -(-len(labels) // _MOST_EXAMPLES)
    logits, truth, count = log_probabilities[::step].astype(np.float64), labels[::step], len(labels)

    def cost(log_temperature: float) -> float:
        scaled = with_temperature(logits, np.exp(log_temperature))
        loss = -scaled[np.arange(len(truth)), truth].mean() * count
        return loss + (log_temperature / _PRIOR_DEVIATION) ** 2 / 2

    coarse = min(_GRID, key=cost)
    fine = coarse + _GRID * (_GRID[1] - _GRID[0]) / _GRID[-1]
    return float(np.exp(min(fine, key=cost)))


def with_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the log-probabilities, [N, C] and of the same type, of logits (or log-probabilities) at a temperature."""
    scaled = logits / np.asarray(temperature, logits.dtype)
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
