import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from trainer.train.evaluation import compute_metrics
from trainer.train.selection import Outcomes, luck, score


def _log_probabilities(rng, labels, *, skill, classes=4):
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.fixture(params=[30, 400])
def compared(request):
    rng = np.random.default_rng(request.param)
    labels = rng.choice(4, request.param, p=(0.6, 0.2, 0.15, 0.05))
    return labels, *(_log_probabilities(rng, labels, skill=skill) for skill in (1.5, 1.0))


def test_metrics_are_scikit_learns(compared):
    labels, found, _ = compared
    ours = compute_metrics(found, labels)
    predicted = found.argmax(axis=1)
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert ours.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert ours.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert ours.loss == pytest.approx(metrics.log_loss(labels, np.exp(found), labels=range(4)), rel=1e-6)
    assert score(ours, "loss") == -ours.loss
    assert score(ours, "macro_f1") == ours.macro_f1


def test_a_loss_is_not_clipped():
    """A diverged model gives the true label a probability that float32 does not hold."""
    assert compute_metrics(np.array([[0.0, -500.0]], np.float32), np.array([1])).loss == 500


def test_luck_with_accuracy_is_mcnemars(compared):
    labels, *found = compared
    one, other = (Outcomes.of(f, labels) for f in found)
    wins = int(((one.predicted == labels) & (other.predicted != labels)).sum())
    losses = int(((one.predicted != labels) & (other.predicted == labels)).sum())
    expected = stats.binomtest(wins, wins + losses, alternative="greater").pvalue
    assert luck(one, other, "accuracy") == pytest.approx(expected, abs=0.04)
    assert luck(other, one, "accuracy") > 0.5


REFERENCES = {
    "balanced_accuracy": lambda labels, found: metrics.balanced_accuracy_score(labels, found.argmax(axis=1)),
    "macro_f1": lambda labels, found: metrics.f1_score(labels, found.argmax(axis=1), average="macro"),
    "loss": lambda labels, found: -metrics.log_loss(labels, np.exp(found), labels=range(4)),
}


@pytest.mark.parametrize(
    ("compared", "by", "reference"),
    [
        pytest.param(size, by, reference, marks=pytest.mark.slow if size == 400 or by == "loss" else ())
        for size, (by, reference) in itertools.product((30, 400), REFERENCES.items())
    ],
    indirect=["compared"],
)
def test_luck_is_scipys_permutation_test(compared, by, reference):
    labels, *found = compared

    def gain(one, other):
        return reference(labels, np.stack(one).reshape(-1, 4)) - reference(labels, np.stack(other).reshape(-1, 4))

    rows = [np.fromiter(f, dtype=np.dtype((np.float32, 4))) for f in found]
    rng = np.random.default_rng(0)
    observed = gain(*rows)
    swaps = rng.random((400, len(labels), 1)) < 0.5
    as_large = sum(gain(np.where(s, rows[1], rows[0]), np.where(s, rows[0], rows[1])) >= observed for s in swaps)
    assert luck(*(Outcomes.of(f, labels) for f in found), by) == pytest.approx((1 + as_large) / 401, abs=0.06)


@pytest.mark.parametrize("by", ["accuracy", "balanced_accuracy", "macro_f1", "loss"])
def test_nothing_is_better_than_itself(compared, by):
    labels, found, _ = compared
    same = Outcomes.of(found, labels)
    assert luck(same, same, by) == 1


@pytest.mark.slow
@pytest.mark.parametrize("by", ["accuracy", "balanced_accuracy", "macro_f1", "loss"])
def test_equal_weights_are_told_apart_at_most_as_often_as_the_level_says(by):
    rng = np.random.default_rng(1)
    told = 0
    for _ in range(60):
        labels = rng.integers(0, 4, 40)
        one, other = (Outcomes.of(_log_probabilities(rng, labels, skill=1.0), labels) for _ in range(2))
        told += luck(one, other, by) <= 0.05
    assert told <= stats.binom.ppf(0.999, 60, 0.05)
