"""Tests what labels are known to be without a look at the pictures."""

import numpy as np

from pipeline.linear.probe import deal_folds
from trainer.check.shortcuts import balanced_accuracy, columns_of, find_shortcuts


def _found(numbers, cameras, labels):
    folds = deal_folds(labels, np.arange(len(labels)), seed=0)
    return find_shortcuts(columns_of(numbers, cameras), labels, folds, num_classes=int(labels.max()) + 1)


def test_a_fact_that_gives_the_labels_away_is_named_first():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=300)
    numbers = {"brightness": labels / 3 + random.random(300) / 4, "aspect": random.random(300)}
    together, first, second = _found(numbers, [""] * 300, labels)
    assert first.facts == ("brightness",)
    assert min(first.accuracy, together.accuracy) > 0.9
    assert abs(second.accuracy - 1 / 3) < 0.12
    assert set(together.facts) == {"brightness", "aspect"}  # no camera: all alike


def test_a_camera_is_a_fact():
    random = np.random.default_rng(0)
    labels = random.integers(2, size=200)
    cameras = ["Canon" if label else "NIKON" for label in labels]
    numbers = {"size": np.full(200, 300.0)}
    (found, alone) = _found(numbers, cameras, labels)
    assert found.facts == alone.facts == ("camera",)
    assert found.accuracy == 1


def test_nothing_known_tells_nothing():
    assert _found({"size": np.full(20, 300.0)}, [""] * 20, np.arange(20) % 2) == []


def test_balanced_accuracy_counts_labels_alike():
    assert balanced_accuracy(np.array([0] * 9 + [1]), np.zeros(10, int)) == 0.5
