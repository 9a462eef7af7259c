"""Tests intervals of shares against SciPy and published figures."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.intervals import difference_interval, wilson_interval


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 7), (7, 7), (91, 100), (4999, 5000), (1, 2)])
def test_wilson_interval_equals_scipys(correct, total):
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_interval_refuses_impossible_counts(correct, total):
    with pytest.raises(ValueError, match=f"got {correct} of {total}"):
        wilson_interval(correct, total)


def test_intervals_of_differences_are_newcombes():
    """The examples of table II, method 10, of Newcombe 1998."""
    published = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (6, 7, 2, 7): (0.0582, 0.8062),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (0, 10, 0, 20): (-0.1611, 0.2775),
        (0, 10, 0, 10): (-0.2775, 0.2775),
        (10, 10, 0, 20): (0.6791, 1.0),
        (10, 10, 0, 10): (0.6075, 1.0),
    }
    for (hits, total, other_hits, other_total), expected in published.items():
        found = difference_interval((hits, total), (other_hits, other_total))
        np.testing.assert_allclose(found, expected, atol=6e-5)
    assert math.isclose(sum(difference_interval((5, 10), (5, 10))), 0, abs_tol=1e-12)
