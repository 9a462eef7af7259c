"""Tests schedules against closed forms."""

import itertools

import numpy as np
import pytest

from trainer.recipes.recipe import Phase
from trainer.recipes.schedule import Duration, cosine, step_decay, warmup_flat_cooldown


def test_durations():
    assert Duration.parse("5ep").steps(steps_per_epoch=7) == 35
    assert Duration.parse("0.5ep").steps(steps_per_epoch=7) == 4
    assert Duration.parse("12st").steps(steps_per_epoch=7) == 12
    assert Duration.parse("10%").steps(steps_per_epoch=7, whole=200) == 20
    assert str(Duration.parse("2.5ep")) == "2.5ep"
    with pytest.raises(ValueError, match="of what"):
        Duration.parse("10%").steps(steps_per_epoch=7)
    for text in ("5", "5 epochs", "-3ep", "ep"):
        with pytest.raises(ValueError, match="not a duration"):
            Duration.parse(text)


def test_warmup_flat_cooldown_hits_its_corners():
    # The CIFAR-10 recipe: 10 epochs up, 5 flat, 20 down, at 20 steps an epoch.
    rates = warmup_flat_cooldown(lr_min=0.001, lr_max=0.025, warmup=200, flat=100, cooldown=400)
    assert rates.shape == (700,)
    assert rates.dtype == np.float32
    assert rates[0] == pytest.approx(0.001)
    assert rates[199] == pytest.approx(0.025)
    np.testing.assert_allclose(rates[199:300], 0.025, rtol=1e-6)
    assert rates[300] < 0.025
    assert rates[-1] == pytest.approx(0.001)
    assert (np.diff(rates[:200]) > 0).all()
    assert (np.diff(rates[299:]) < 0).all()
    assert rates[299 + 200] == pytest.approx((0.001 + 0.025) / 2)  # the middle of the cool-down


@pytest.mark.parametrize("steps", range(1, 40))
def test_however_short_a_phase_is_it_reaches_its_highest_rate(steps):
    for warmup, flat in itertools.product((0, 10, 30, 50), (0, 20, 50)):
        phase = Phase(
            name="all",
            duration=Duration(value=steps, unit="st"),
            lr_min=1e-5,
            lr_max=1e-3,
            warmup=Duration(value=warmup, unit="%"),
            flat=Duration(value=flat, unit="%"),
        )
        rates = phase.learning_rates(steps_per_epoch=5)
        assert len(rates) == steps
        assert rates.max() == np.float32(1e-3), (warmup, flat)


def test_cosine_is_half_a_wave():
    positions = np.linspace(0, 1, 11)
    expected = 3 + (1 - 3) * (1 + np.cos(np.pi * positions)) / 2
    np.testing.assert_allclose([cosine(1, 3)(p) for p in positions], expected)


def test_step_decay():
    np.testing.assert_allclose(step_decay(lr_max=1.0, factor=0.9, every=3, steps=7), [1, 1, 1, 0.9, 0.9, 0.9, 0.81])


def test_a_phase_of_one_step_has_a_rate():
    assert warmup_flat_cooldown(lr_min=0, lr_max=1, warmup=0, flat=0, cooldown=1).tolist() == [1.0]
