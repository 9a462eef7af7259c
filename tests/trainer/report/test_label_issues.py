"""Tests that label issues are cleanlab's, and which images are listed."""

import numpy as np
import pytest
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues as cleanlabs

from trainer.report.label_issues import find_label_issues


def _some(seed, *, count=300, classes=4):
    """Makes labels, a tenth of them wrong, and probabilities that are right most of the time."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=count)
    logits = random.normal(size=(count, classes)) + 2.5 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.where(random.random(count) < 0.1, random.integers(classes, size=count), truth)
    return labels, probabilities


@pytest.mark.parametrize("classes", [2, 4, 11])
@pytest.mark.parametrize("seed", range(5))
def test_they_are_cleanlabs(seed, classes):
    labels, probabilities = _some(seed, classes=classes)
    found = find_label_issues(labels, probabilities)
    expected = cleanlabs(
        labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert found.positions.tolist() == expected.tolist()
    np.testing.assert_array_equal(found.joint, compute_confident_joint(labels, probabilities, calibrate=False))
    np.testing.assert_array_equal(found.suggested, probabilities[expected].argmax(axis=1))


def test_a_label_without_images_and_ties_are_no_issues():
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1]] * 3 + [[0.4, 0.4, 0.2], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    found = find_label_issues(labels, probabilities)
    assert found.positions.tolist() == [5]
    assert found.suggested.tolist() == [0]
    assert 0 < found.noise < 0.5


def test_no_images_have_no_issues():
    found = find_label_issues(np.zeros(0, int), np.zeros((0, 3)))
    assert not len(found.positions)
    assert found.noise == 1 or found.joint.sum() == 0
