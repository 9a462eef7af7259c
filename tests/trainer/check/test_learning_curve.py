"""Tests what is told of more images."""

import numpy as np
import pytest

from trainer.check import learning_curve
from trainer.check.learning_curve import SHARES, measure


def test_a_power_law_is_found_again():
    counts = np.array(SHARES) * 1_000
    wrong = np.zeros((4, 100_000))
    for row, error in zip(wrong, 2.0 * counts**-0.4, strict=True):
        row[: round(100_000 * error)] = 1
    curve = learning_curve._curve(counts, wrong, np.random.default_rng(0))
    gain, low, high = curve.gain(500)
    assert gain == pytest.approx(2.0 * (1_000**-0.4 - 1_500**-0.4), rel=0.01)
    assert low < gain < high
    later, *_ = curve.gain(500, beside=5_000)  # where there are more images than the heads learnt from
    assert later == pytest.approx(2.0 * (5_000**-0.4 - 5_500**-0.4), rel=0.01)
    assert curve.gain(500, beside=600) == curve.gain(500)
    np.testing.assert_allclose(curve.errors, 2.0 * counts**-0.4, atol=1e-4)


def test_heads_that_never_err_gain_next_to_nothing():
    random = np.random.default_rng(0)
    labels = np.arange(100) % 2
    features = (10 * np.eye(4)[labels] + random.normal(size=(100, 4))).astype(np.float32)
    curve = measure(features, labels, np.arange(100) // 2 % 5, num_classes=2, strength=1.0, seed=0)
    assert curve.errors.tolist() == [0, 0, 0, 0]
    gain, low, high = curve.gain(100)
    assert 0 <= low <= gain <= high < 0.01


def test_heads_learn_from_the_shares_that_are_said_and_err_less_of_more():
    random = np.random.default_rng(0)
    labels = random.integers(4, size=600)
    features = (random.normal(size=(600, 40)) + 1.2 * np.eye(40)[labels]).astype(np.float32)
    curve = measure(features, labels, np.arange(600) % 5, num_classes=4, strength=1.0, seed=0)
    np.testing.assert_allclose(curve.counts, 480 * np.array(SHARES), rtol=0.05)
    assert curve.errors[0] > curve.errors[-1] + 0.02
    assert (curve.intervals[:, 0] < curve.errors).all()
    assert (curve.errors < curve.intervals[:, 1]).all()
    again = measure(features, labels, np.arange(600) % 5, num_classes=4, strength=1.0, seed=0)
    assert curve.gain(100) == again.gain(100)


def test_noise_has_no_law_that_falls():
    random = np.random.default_rng(0)
    wrong = (random.random((4, 500)) < 0.5).astype(float)
    curve = learning_curve._curve(np.array(SHARES) * 500, wrong, random)
    gain, low, high = curve.gain(500)
    assert 0 == low <= gain <= high < 0.06
