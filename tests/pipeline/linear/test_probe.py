"""Tests heads that are asked about what they have not seen."""

import numpy as np

from pipeline.linear.probe import FOLDS, deal_folds, out_of_fold
from pipeline.linear.regression import fit_head


def test_look_alikes_share_a_fold_and_labels_are_spread():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=200)
    groups = np.where(np.arange(200) < 40, labels, np.arange(200) + 10)  # 40 images in three groups
    folds = deal_folds(labels, groups, seed=1)
    for group in range(3):
        assert len(set(folds[groups == group])) == 1
    alone = np.arange(200) >= 40
    for label in range(3):
        counts = np.bincount(folds[alone & (labels == label)], minlength=FOLDS)
        assert counts.max() - counts.min() <= 2
    np.testing.assert_array_equal(folds, deal_folds(labels, groups, seed=1))
    assert (folds != deal_folds(labels, groups, seed=2)).any()


def test_a_label_of_one_group_is_never_asked_about():
    labels, groups = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 3, 3, 4])
    folds = deal_folds(labels, groups, seed=0)
    assert (folds[labels == 0] >= 0).all()
    assert (folds[labels > 0] == -1).all()


def test_no_answer_depends_on_the_image_s_own_label():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=60)
    features = (random.normal(size=(60, 8)) + np.eye(8)[labels]).astype(np.float32)
    folds = np.arange(60) % FOLDS
    folds[-1] = -1
    found = out_of_fold(features, labels, folds, num_classes=3, strength=1.0)
    np.testing.assert_allclose(np.exp(found[:-1]).sum(axis=1), 1, rtol=1e-5)
    assert np.isnan(found[-1]).all()
    changed = labels.copy()
    changed[folds == 0] = 0
    again = out_of_fold(features, changed, folds, num_classes=3, strength=1.0)
    np.testing.assert_allclose(again[folds == 0], found[folds == 0], atol=2e-3)
    known = folds != 3
    head = fit_head(features[known], labels[known], class_weights=np.ones(3, np.float32), strength=1.0)
    np.testing.assert_allclose(found[folds == 3], head.log_probabilities(features[folds == 3]), atol=2e-3)
