"""Finds, with few compiles, the largest batch that fits: memory is nearly affine in the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

TOLERANCE = 0.03  # share by which the answer may be too small
_NEARLY_FULL = 0.9  # of the limit
_STEP_WHERE_FULL = 1.25
_GRANULE = 8  # rows of a tile: a batch between multiples of it takes the memory of the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """Records one compile.

    Attributes:
      batch: images a step.
      needed: bytes it takes, or would take; 0 where the compiler did not say.
      fits: whether it compiled.
    """

    batch: int
    needed: float
    fits: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Holds what the search found.

    Attributes:
      largest: the largest batch seen to fit; 0 if none did.
      too_large: the smallest batch seen not to fit, or None.
      attempts: every compile, in order.
    """

    largest: int
    too_large: int | None
    attempts: tuple[Attempt, ...]


def largest_batch(
    attempt: Callable[[int], Attempt],
    first: Attempt,
    *,
    limit: float,
    compiles: int,
    fixed: float = 0.0,
    tolerance: float = TOLERANCE,
    most: int = 2**17,
) -> Search:
    """Looks for the largest batch that fits, with at most `compiles` further attempts.

    Each guess is where the line through the two attempts nearest to the limit meets it; the last one is a little less,
    as it is to be verified. Ends when a batch fits and one larger by `tolerance` (or by 8) does not, when the line
    promises no more than that, or at `most`.

    Args:
      attempt: compiles at a batch.
      first: an attempt that was made already.
      limit: bytes of memory.
      compiles: attempts at most.
      fixed: bytes that a program of any batch takes, at least.
      tolerance: share by which the answer may be too small.
      most: never tries more.
    """
    attempts = [first]
    while len(attempts) <= compiles:
        low, high = _bracket(attempts)
        guess = min(_guess(attempts, limit, fixed), most)
        if len(attempts) == compiles and guess < most:
            guess = int((1 - tolerance) * guess)
        if any(a.fits and a.needed > _NEARLY_FULL * limit for a in attempts):
            # Here the compiler begins to compute again what it cannot keep, and the line says little.
            guess = min(guess, int(_STEP_WHERE_FULL * low))
        slack = max(_GRANULE, int(tolerance * low))
        if (low and abs(guess - low) < slack) or (high is not None and high - low <= slack):
            break
        if high is not None and not low < guess < high:
            guess = (low + high) // 2
        guess = _round(guess)
        if guess <= low or (high is not None and guess >= high) or guess < 1:
            break
        attempts.append(attempt(guess))
    low, high = _bracket(attempts)
    return Search(largest=low, too_large=high, attempts=tuple(attempts))


def _bracket(attempts: list[Attempt]) -> tuple[int, int | None]:
    fitting = [a.batch for a in attempts if a.fits]
    failing = [a.batch for a in attempts if not a.fits]
    return max(fitting, default=0), min(failing, default=None)


def _guess(attempts: list[Attempt], limit: float, fixed: float) -> int:
    """Guesses the batch at which memory meets the limit."""
    told = sorted((a for a in attempts if a.needed), key=lambda a: abs(a.needed - limit))
    if not told:  # nothing but failures without a figure
        return min(a.batch for a in attempts) // 2
    nearest = told[0]
    if len(told) == 1:
        # More of it may not grow with the batch, so this falls short where there is room, and that is the better side.
        grows = max(nearest.needed - fixed, 1.0)
        proportional = int(nearest.batch * max(limit - fixed, 0.0) / grows)
        return (
            proportional if nearest.needed > _NEARLY_FULL * limit else max(proportional, 2 * nearest.batch + _GRANULE)
        )
    other = told[1]
    slope = (nearest.needed - other.needed) / (nearest.batch - other.batch)
    if slope <= 0:
        return 2 * max(a.batch for a in attempts)
    return int(nearest.batch + (limit - nearest.needed) / slope)


def _round(batch: int) -> int:
    return batch // _GRANULE * _GRANULE if batch > _GRANULE else batch
