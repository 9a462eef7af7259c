import math

import numpy as np
import pytest

from pipeline.command import DataError
from pipeline.predictions import Predictions
from trainer.quickstart.choice import accuracy, prove

NAMES = ("cat", "dog")


def answers(right, *, first=0):
    """Makes answers to images whose labels alternate; `right` says which are right."""
    labels = np.arange(len(right)) % 2
    told = np.where(right, labels, 1 - labels)
    rows = np.where(np.arange(2) == told[:, None], 0.9, 0.1)
    return Predictions(
        ids=[f"image{first + number}" for number in range(len(right))],
        labels=labels,
        names=NAMES,
        log_probabilities=np.log(rows).astype(np.float32),
    )


def of_counts(wins, losses, *, pairs=120):
    """Makes two models of which one alone is right on so many images; both are on the others."""
    challenger, incumbent = np.ones(pairs, bool), np.ones(pairs, bool)
    incumbent[:wins] = False
    challenger[wins : wins + losses] = False
    return answers(challenger), answers(incumbent)


def multinomial_tail(wins, pairs):
    """Returns the largest probability, over all rates of discordance, that each of so many or more wins, none loses.

    The independent reference for outcomes without a loss: of models that are equally good, P(win) = P(loss) = q.
    """
    q = np.linspace(1e-4, 0.5, 5000)
    tail = np.zeros_like(q)
    for count in range(wins, pairs + 1):
        tail += math.comb(pairs, count) * q**count * (1 - 2 * q) ** (pairs - count)
    return tail.max()


@pytest.mark.parametrize(("wins", "better"), [(2, False), (3, True), (9, True)])
def test_a_few_wins_without_a_loss_are_proof_and_fewer_are_not(wins, better):
    proof = prove(*of_counts(wins, 0))
    assert proof.is_better == better
    assert not proof.is_worse
    assert proof.better >= multinomial_tail(wins, 120) - 1e-6, "as much evidence has at least this probability"


def test_equal_models_are_neither_better_nor_worse():
    for wins, losses in ((0, 0), (4, 4)):
        proof = prove(*of_counts(wins, losses))
        assert not proof.is_better
        assert not proof.is_worse
        assert proof.text.endswith("no difference")


def test_the_other_way_round_it_is_worse():
    proof = prove(*of_counts(1, 12))
    assert proof.is_worse
    assert not proof.is_better
    assert proof.better > 0.5
    assert proof.worse == prove(*of_counts(12, 1)).better


def test_images_that_the_incumbent_has_learnt_from_do_not_count():
    challenger, incumbent = of_counts(9, 0)
    learnt = {f"image{number}" for number in range(9)}
    proof = prove(challenger, incumbent, without=learnt)
    assert (proof.counts.pairs, proof.counts.wins) == (111, 0)
    with pytest.raises(DataError, match="no image in common"):
        prove(challenger, incumbent, without=set(challenger.ids))


def test_accuracy_is_told_with_half_of_its_interval():
    right = np.arange(80) < 71
    assert accuracy(answers(right)) == "88.8\u00a0% right, ± 7"
