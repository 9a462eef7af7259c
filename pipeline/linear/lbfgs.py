"""Minimises smooth functions by L-BFGS (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116); NumPy only.

Not SciPy's: it comes with a linear algebra of its own, whose threads and NumPy's wait for one another, so that a head
took several times as long with it (`benchmarks/RESULTS.md`, "Head").
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

import numpy as np

_MEMORY = 10  # steps that curvature is estimated from
_ITERATIONS = 200
_STEEPEST = 1e-5  # of the slope's components at a minimum
_GAIN = 1e-9  # relative: less is the end
_TRIES = 20  # of a step's length
_ENOUGH_DESCENT, _ENOUGH_FLATTENING = 1e-4, 0.9

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
Pair = tuple[np.ndarray, np.ndarray]


def minimize(objective: Objective, start: np.ndarray) -> np.ndarray:
    """Returns where a convex function is smallest, as nearly as its rounding lets tell.

    Args:
      objective: returns value and gradient (float64 [n]) at a point (float64 [n]).
      start: float64 [n].
    """
    point, (value, slope) = start, objective(start)
    pairs: collections.deque[Pair] = collections.deque(maxlen=_MEMORY)
    for _ in range(_ITERATIONS):
        if np.abs(slope).max() <= _STEEPEST:
            break
        direction = -_times_inverse_hessian(slope, pairs)
        length = 1.0 if pairs else min(1.0, 1 / float(np.abs(slope).sum()))
        found = _step(objective, point, value, slope, direction, length)
        if found is None:
            break
        before, (point, value, new_slope) = (point, value), found
        pairs.append((point - before[0], new_slope - slope))
        slope = new_slope
        if before[1] - value <= _GAIN * max(1.0, abs(before[1])):
            break
    return point


def _times_inverse_hessian(slope: np.ndarray, pairs: Iterable[Pair]) -> np.ndarray:
    """Estimates the inverse Hessian's product with `slope` from pairs (step, change of slope), the oldest first."""
    known = [(step, change, 1 / float(step @ change)) for step, change in pairs]
    result, shares = slope.copy(), []
    for step, change, inverse in reversed(known):
        shares.append(inverse * float(step @ result))
        result -= shares[-1] * change
    if known:
        step, change, _ = known[-1]
        result *= float(step @ change) / float(change @ change)
    for (step, change, inverse), share in zip(known, reversed(shares), strict=True):
        result += (share - inverse * float(change @ result)) * step
    return result


def _step(
    objective: Objective, point: np.ndarray, value: float, slope: np.ndarray, direction: np.ndarray, length: float
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Returns point, value and slope where the weak Wolfe conditions hold along `direction`; None if none is found.

    By bisection, as Lewis and Overton do (https://doi.org/10.1007/s10107-012-0514-2): such a step has positive
    curvature, which the estimate of the inverse Hessian needs.
    """
    shortest, longest, along = 0.0, np.inf, float(slope @ direction)
    for _ in range(_TRIES):
        there = point + length * direction
        new_value, new_slope = objective(there)
        if not new_value <= value + _ENOUGH_DESCENT * length * along:
            longest = length
        elif float(new_slope @ direction) < _ENOUGH_FLATTENING * along:
            shortest = length
        else:
            return there, new_value, new_slope
        length = (shortest + longest) / 2 if np.isfinite(longest) else 2 * length
    return None
