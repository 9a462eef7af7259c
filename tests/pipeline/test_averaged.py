import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline import averaged, noninferiority
from pipeline.noninferiority import PairedCounts


def differences(images, *, wins=0, losses=0, seeds=1):
    """Makes images on which all seeds are right and the champion is not, or the other way round."""
    return np.array([1.0] * wins + [-1.0] * losses + [0.0] * (images - wins - losses))


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize(("images", "margin"), [(50, 0.05), (300, 0.01), (299, 0.01)])
def test_equal_answers_are_judged_as_the_exact_test_does(images, margin, seeds):
    found = averaged.p_value(differences(images), seeds=seeds, difference=-margin)
    assert found == pytest.approx((1 - margin) ** images)
    exact = noninferiority.p_value(PairedCounts(pairs=images, wins=0, losses=0), difference=-margin)
    assert found == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("images", "wins", "losses"), [(400, 9, 7), (400, 20, 12), (1000, 30, 30), (150, 3, 1)])
def test_of_one_seed_it_is_near_the_exact_test(images, wins, losses):
    found = averaged.p_value(differences(images, wins=wins, losses=losses), seeds=1, difference=-0.02)
    exact = noninferiority.p_value(PairedCounts(pairs=images, wins=wins, losses=losses), difference=-0.02)
    assert abs(np.log(found / exact)) < 0.5


def test_the_p_value_is_that_of_an_enumeration():
    """Three images, two seeds: the tilted law by a general optimizer, its tail by going through all samples."""
    data, margin = np.array([0.5, -0.5, 1.0]), 0.3
    support = np.array([0.5, -0.5, 1.0, -1.0])
    weights = np.full(4, 0.25)

    def mean(tilt):
        law = weights * np.exp(tilt * support)
        return law @ support / law.sum()

    tilt = optimize.brentq(lambda t: mean(t) + margin, -50, 50, xtol=1e-14)
    law = weights * np.exp(tilt * support)
    law /= law.sum()
    expected = sum(
        np.prod([law[at] for at in draw])
        for draw in itertools.product(range(4), repeat=3)
        if sum(support[at] for at in draw) >= data.sum() - 1e-12
    )
    assert averaged.p_value(data, seeds=2, difference=-margin) == pytest.approx(expected, rel=1e-9)


def test_seeds_that_agree_are_worth_no_more_than_one():
    one = averaged.p_value(differences(300, wins=5, losses=6), seeds=1, difference=-0.02)
    three = averaged.p_value(differences(300, wins=5, losses=6), seeds=3, difference=-0.02)
    assert one == pytest.approx(three, rel=1e-9)


def test_limits_are_where_the_test_turns():
    data = np.array([1 / 3] * 12 + [-1 / 3] * 15 + [-1.0] * 2 + [0.0] * 300)
    low = averaged.lower_limit(data, seeds=3, alpha=0.05)
    high = averaged.upper_limit(data, seeds=3, alpha=0.05)
    assert low < data.mean() < high
    assert (
        averaged.p_value(data, seeds=3, difference=low - 1e-3)
        <= 0.05
        < averaged.p_value(data, seeds=3, difference=low + 1e-3)
    )
    spread = data.std() / np.sqrt(len(data))
    assert low == pytest.approx(data.mean() + stats.norm.ppf(0.05) * spread, abs=0.01)
    assert high == pytest.approx(data.mean() - stats.norm.ppf(0.05) * spread, abs=0.01)


def test_worse_for_sure_is_never_passed():
    assert averaged.p_value(np.full(100, -1.0), seeds=3, difference=-0.02) == 1
    with pytest.raises(ValueError, match="between -1 and 1"):
        averaged.p_value(np.zeros(3), seeds=1, difference=-1.0)


def test_a_model_worse_by_the_margin_passes_about_alpha_of_the_time():
    """The benchmark goes through many worlds; this one would show a test that is plainly too lenient."""
    random, passed, draws = np.random.default_rng(1), 0, 600
    for _ in range(draws):
        uncertain = random.random(400) < 0.1
        champion = ~uncertain | (random.random(400) < 0.55)
        hard = random.random(400)
        shares = np.mean(
            [~uncertain | (np.where(random.random(400) < 0.5, hard, random.random(400)) < 0.45) for _ in range(3)],
            axis=0,
        )
        passed += averaged.p_value(shares - champion, seeds=3, difference=-0.01) <= 0.05
    assert passed <= stats.binom.ppf(0.999, draws, 0.05)
    assert passed >= 5, "nor does it refuse everything"
