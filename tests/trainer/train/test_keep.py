"""Tests which weights are in best.npz at the end of a run."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from tests.trainer.runs import small_recipe
from trainer.train.checkpoint import Checkpoints, Snapshot
from trainer.train.evaluation import compute_metrics
from trainer.train.keep import Keeper, Validated
from trainer.train.plan import Position

LABELS = np.arange(90) % 3


def _validated(*, right, sure, of_wrong=None):
    """Answers that are right in a share of cases, and as sure of all of them, or otherwise of wrong ones."""
    answers = np.where(np.arange(90) < round(90 * right), LABELS, (LABELS + 1) % 3)
    sureness = np.where(answers == LABELS, sure, of_wrong or sure)
    log_probabilities = log_softmax(sureness[:, np.newaxis] * np.eye(3)[answers], axis=1).astype(np.float32)
    return Validated(
        log_probabilities=log_probabilities, labels=LABELS, sample=compute_metrics(log_probabilities, LABELS)
    )


class _Run:
    """Goes through two phases, of which the first trains a head on cached features."""

    def __init__(self, directory, *settings):
        self.directory, self.position, self.weight = directory, Position(), tf.Variable(0.0)
        self.checkpoints = Checkpoints(str(directory))
        recipe = small_recipe("selection=best", *settings)
        self.keeper = Keeper(self.checkpoints, Snapshot({"w": self.weight}), recipe, is_chief=True)

    def ends(self, head, *later):
        for step, found in enumerate((head, *later), start=1):
            where = {"step": step, "epoch": step, "phase": "head" if step == 1 else "all"}
            self.weight.assign(float(step))
            self.keeper.after_epoch(self.position, where, found)
            if step == 1:
                self.keeper.after_head(self.position, where, found)
        self.keeper.at_the_end(self.position, where, found)
        self.checkpoints.wait()
        with np.load(self.directory / "best.npz") as arrays:
            return float(arrays["w"])


HEAD = _validated(right=0.9, sure=3)


def test_fine_tuning_that_is_better_is_kept(tmp_path):
    run = _Run(tmp_path)
    assert run.ends(HEAD, _validated(right=0.95, sure=4)) == 2
    assert (run.position.best["phase"], run.position.best["step"]) == ("all", 2)


def test_the_head_is_kept_where_its_validation_loss_is_lower_by_more_than_luck(tmp_path):
    run = _Run(tmp_path)
    assert run.ends(HEAD, _validated(right=0.92, sure=3), _validated(right=0.91, sure=1, of_wrong=12)) == 1
    assert (run.position.best["phase"], run.position.best["step"]) == ("head", 1)
    assert run.position.best["validation_accuracy"] == pytest.approx(0.9)
    assert run.position.best.keys() == _fresh_keys(tmp_path / "other")


def _fresh_keys(directory):
    run = _Run(directory)
    run.ends(HEAD, _validated(right=0.95, sure=4))
    return run.position.best.keys()


def test_how_sure_weights_are_does_not_matter_as_a_temperature_is_fitted(tmp_path):
    assert _Run(tmp_path / "a").ends(HEAD, _validated(right=0.9 + 1 / 90, sure=30)) == 2
    assert _Run(tmp_path / "b").ends(_validated(right=0.9, sure=30), _validated(right=0.7, sure=3)) == 1


def test_luck_is_no_reason_to_fall_back_to_the_head(tmp_path):
    assert _Run(tmp_path).ends(HEAD, _validated(right=0.88, sure=3)) == 2


def test_an_earlier_epoch_beyond_luck_comes_before_the_head(tmp_path):
    assert _Run(tmp_path).ends(HEAD, _validated(right=0.99, sure=3), _validated(right=0.6, sure=3)) == 2


def test_the_last_weights_are_kept_where_they_are_asked_for(tmp_path):
    run = _Run(tmp_path, "selection=last")
    assert run.ends(HEAD, _validated(right=0.5, sure=3)) == 2
    assert run.position.head is None
    assert not (tmp_path / "head.npz").exists()


def test_a_head_that_an_earlier_version_did_not_keep_is_not_missed(tmp_path):
    run = _Run(tmp_path)
    run.checkpoints.remove_head()
    found = _validated(right=0.91, sure=1, of_wrong=12)
    run.keeper.after_epoch(run.position, {"step": 1, "epoch": 1, "phase": "head"}, HEAD)
    run.position.head = {"phase": "head"}
    run.weight.assign(2.0)
    run.keeper.at_the_end(run.position, {"step": 2, "epoch": 2, "phase": "all"}, found)
    assert run.position.best["step"] == 2
