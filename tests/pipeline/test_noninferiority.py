"""Tests the exact test against enumeration with SciPy, published Tango values, and its promise of at most alpha."""

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.noninferiority import (
    PairedCounts,
    _binomial_cdf,
    images_needed,
    lower_limit,
    p_value,
    score_statistic,
)

ALPHA = 0.05


def tail_by_enumeration(counts: PairedCounts, difference: float, loss_rate: float) -> float:
    """Computes P(an outcome at least as favourable), summed over every possible outcome."""
    n = counts.pairs
    wins, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = wins + losses <= n
    wins, losses = wins[possible], losses[possible]
    statistic = score_statistic(wins, losses, n, difference)
    observed = score_statistic(counts.wins, counts.losses, n, difference)
    win_rate = loss_rate + difference
    outcomes = np.stack([wins, losses, n - wins - losses], axis=1)
    probability = stats.multinomial.pmf(outcomes, n, [win_rate, loss_rate, 1 - win_rate - loss_rate])
    return float(probability[statistic >= observed - 1e-9].sum())


def test_score_statistic_of_tango_1998():
    # Tango's example: 44 subjects, one discordant pair against the new method, margin 0.1: Z = 1.709, p = 0.044.
    z = score_statistic(wins=0, losses=1, pairs=44, difference=-0.1)
    assert z == pytest.approx(1.709, abs=5e-4)
    assert stats.norm.sf(z) == pytest.approx(0.044, abs=5e-4)


@pytest.mark.parametrize(
    ("losses", "wins", "pairs", "level", "lower", "upper"),
    [
        (25, 28, 618, 0.90, -0.0148, 0.0247),  # R: PropCIs::scoreci.mp(25, 28, 618, 0.90)
        (1, 7, 21, 0.95, 0.026, 0.517),  # Fagerland, Lydersen, Laake (2017), chapter 8, Bentur et al. 2009
    ],
)
def test_inverting_the_statistic_gives_the_published_tango_interval(losses, wins, pairs, level, lower, upper):
    z = stats.norm.isf((1 - level) / 2)
    estimate = (wins - losses) / pairs
    found = [
        optimize.brentq(lambda d, t=target: float(score_statistic(wins, losses, pairs, d)) - t, low, high)
        for target, low, high in ((z, -0.999, estimate), (-z, estimate, 0.999))
    ]
    decimals = 4 if pairs == 618 else 3
    assert [round(value, decimals) for value in found] == [lower, upper]


def test_statistic_orders_outcomes_as_common_sense_does():
    for difference in (-0.2, -0.01, 0.0, 0.1):
        table = score_statistic(np.arange(41)[:, None], np.arange(41)[None, :], 80, difference)
        assert np.all(np.diff(table, axis=0) >= -1e-9), "more wins speak for the challenger"
        assert np.all(np.diff(table, axis=1) <= 1e-9), "more losses speak against it"


def test_binomial_cdf_equals_scipy():
    generator = np.random.default_rng(0)
    n = generator.integers(1, 60_000, 4000).astype(float)
    p = np.concatenate([generator.random(3998), [0.0, 1.0]])
    near_mean = np.round(n * p + 4 * generator.normal(size=4000) * np.sqrt(n * p * (1 - p)))
    for k in (np.clip(near_mean, -1, n), np.floor(generator.random(4000) * (n + 2)) - 1):
        np.testing.assert_allclose(_binomial_cdf(k, n, p), stats.binom.cdf(k, n, p), atol=1e-10)


@pytest.mark.parametrize(
    ("wins", "losses", "pairs", "difference"),
    [(0, 0, 30, -0.1), (0, 1, 44, -0.1), (3, 1, 25, -0.05), (5, 9, 60, -0.2), (12, 2, 50, 0.0), (12, 2, 50, 0.05)],
)
def test_p_value_is_the_maximum_over_the_nuisance_parameter(wins, losses, pairs, difference):
    counts = PairedCounts(pairs=pairs, wins=wins, losses=losses)
    rates = np.linspace(max(0.0, -difference), (1 - difference) / 2, 400)
    brute = max(tail_by_enumeration(counts, difference, rate) for rate in rates)
    assert p_value(counts, difference=difference) == pytest.approx(brute, abs=2e-5)
    assert p_value(counts, difference=difference) >= brute - 1e-9


@pytest.mark.parametrize(("pairs", "margin"), [(40, 0.1), pytest.param(60, 0.05, marks=pytest.mark.slow)])
def test_a_model_worse_by_exactly_the_margin_passes_at_most_alpha_of_the_time(pairs, margin):
    """Every outcome is judged and its probability added up: no sampling error."""
    outcomes = [(w, x) for w in range(pairs + 1) for x in range(pairs + 1 - w)]
    wins, losses = np.array(outcomes).T
    # Only outcomes near the edge need judging: those that the normal approximation, made lenient, lets pass.
    lenient = score_statistic(wins, losses, pairs, -margin) > 1.2
    passes = np.array(
        [
            bool(ok) and p_value(PairedCounts(pairs=pairs, wins=int(w), losses=int(x)), difference=-margin) <= ALPHA
            for ok, w, x in zip(lenient, wins, losses, strict=True)
        ]
    )
    sizes = []
    for loss_rate in np.linspace(margin, (1 + margin) / 2, 60):
        win_rate = loss_rate - margin
        probability = stats.multinomial.pmf(
            np.stack([wins, losses, pairs - wins - losses], axis=1),
            pairs,
            [win_rate, loss_rate, 1 - win_rate - loss_rate],
        )
        sizes.append(probability[passes].sum())
    assert max(sizes) <= ALPHA + 1e-6
    assert max(sizes) > 0.02, "a test that never passes anything would prove nothing"


def test_where_the_normal_approximation_exceeds_alpha_the_exact_test_does_not():
    pairs, margin, losses = 280, 0.01, np.arange(30)  # the challenger is never right where the champion is wrong
    probability = stats.binom.pmf(losses, pairs, margin)
    approximate = stats.norm.sf(score_statistic(0, losses, pairs, -margin)) <= ALPHA
    exact = [p_value(PairedCounts(pairs=pairs, wins=0, losses=int(x)), difference=-margin) <= ALPHA for x in losses]
    assert probability[approximate].sum() > 0.055
    assert probability[exact].sum() <= ALPHA


@pytest.mark.parametrize(
    ("pairs", "margin", "win_rate"),
    [*(pytest.param(*of, marks=pytest.mark.slow) for of in ((500, 0.01, 0.01), (1000, 0.02, 0.01))), (800, 0.02, 0.0)],
)
def test_simulated_challengers_worse_by_the_margin(pairs, margin, win_rate):
    trials = 1500
    generator = np.random.default_rng(1)
    rates = [win_rate, win_rate + margin, 1 - 2 * win_rate - margin]
    outcomes, times = np.unique(generator.multinomial(pairs, rates, size=trials), axis=0, return_counts=True)
    passed = sum(
        int(count) * (p_value(PairedCounts(pairs=pairs, wins=int(w), losses=int(x)), difference=-margin) <= ALPHA)
        for (w, x, _), count in zip(outcomes, times, strict=True)
    )
    # 0.1 % one-sided bound of a binomial with rate alpha.
    assert passed <= stats.binom.isf(0.001, trials, ALPHA)


def test_an_equal_challenger_passes_when_there_are_enough_images():
    counts = PairedCounts(pairs=2000, wins=20, losses=20)
    assert p_value(counts, difference=-0.01) < ALPHA


@pytest.mark.parametrize(("wins", "losses", "pairs"), [(0, 0, 50), (4, 4, 200), (30, 2, 300), (0, 12, 100), (7, 0, 7)])
@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_interval_agrees_with_the_test(wins, losses, pairs, margin):
    counts = PairedCounts(pairs=pairs, wins=wins, losses=losses)
    low = lower_limit(counts, alpha=ALPHA, start=-margin)
    high = -lower_limit(counts.swapped(), alpha=ALPHA, start=margin)
    assert -1 <= low <= counts.difference <= high <= 1
    assert (low >= -margin) == (p_value(counts, difference=-margin) <= ALPHA)


@pytest.mark.slow
def test_interval_is_close_to_tangos_for_many_images():
    counts = PairedCounts(pairs=5000, wins=150, losses=180)
    z = stats.norm.isf(ALPHA)
    tango = optimize.brentq(lambda d: float(score_statistic(150, 180, 5000, d)) - z, -0.5, counts.difference)
    assert lower_limit(counts, alpha=ALPHA) == pytest.approx(tango, abs=3e-4)


def test_images_needed_is_the_first_number_that_lets_equal_answers_pass():
    needed = images_needed(margin=0.05, alpha=ALPHA)
    assert needed == 59  # the rule of three: about 3 / margin

    def passes(pairs):
        return p_value(PairedCounts(pairs=pairs, wins=0, losses=0), difference=-0.05) <= ALPHA

    assert passes(needed)
    assert not passes(needed - 1)


@pytest.mark.parametrize("counts", [(10, 8, 3), (0, 0, 0), (5, -1, 0)])
def test_impossible_counts_are_refused(counts):
    pairs, wins, losses = counts
    with pytest.raises(ValueError, match="impossible counts"):
        PairedCounts(pairs=pairs, wins=wins, losses=losses)
