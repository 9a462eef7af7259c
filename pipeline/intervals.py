"""Computes intervals of shares, by published methods that hold for few images."""

from __future__ import annotations

import math

_Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Computes the 95 % interval of a share, which holds for few and for all correct.

    Wilson 1927, doi 10.1080/01621459.1927.10502953.

    Raises:
      ValueError: `total` is not positive or `correct` is not within 0..total.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"need 0 <= correct <= total and total >= 1, got {correct} of {total}")
    share, z2 = correct / total, _Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """Computes the 95 % interval of the difference of two independent shares, each (correct, total).

    Newcombe 1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10.
    """
    first, second = one[0] / one[1], other[0] / other[1]
    (low1, high1), (low2, high2) = wilson_interval(*one), wilson_interval(*other)
    difference = first - second
    return (
        difference - math.hypot(first - low1, high2 - second),
        difference + math.hypot(high1 - first, second - low2),
    )
