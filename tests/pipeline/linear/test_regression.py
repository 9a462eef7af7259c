"""Tests heads that are solved for against scikit-learn, and the choice of their penalty."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from pipeline.linear import regression
from pipeline.linear.regression import STRENGTHS, cross_validate, fit_head


def _features(count, *, classes=4, width=40, apart=0.6, scale=7.0, seed=0):
    """Clouds that overlap; of any size, as pooled features are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    features = scale * (apart * centres[labels] + rng.normal(size=(count, width)))
    return features.astype(np.float32), labels.astype(np.int32)


def _scikit(features, strength):
    return LogisticRegression(C=1 / (strength * (features.astype(float) ** 2).sum(axis=1).mean()), max_iter=5000,
                              tol=1e-8)  # fmt: skip


@pytest.mark.parametrize("strength", [3.0, 0.01])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_is_scikit_learns(strength, balanced):
    features, labels = _features(300)
    weights = np.array([1.0, 1.0, 4.0, 0.5]) if balanced else np.ones(4)
    head = fit_head(features, labels, class_weights=weights, strength=strength)
    known = _scikit(features, strength).fit(features, labels, sample_weight=weights[labels])
    np.testing.assert_allclose(
        np.exp(head.log_probabilities(features)), known.predict_proba(features), atol=3e-3 if strength < 1 else 1e-3
    )
    assert np.linalg.norm(head.kernel - known.coef_.T) < 0.03 * np.linalg.norm(known.coef_)


def test_it_does_not_matter_in_which_units_features_come():
    features, labels = _features(200)
    small, large = (
        fit_head(features * np.float32(factor), labels, class_weights=np.ones(4), strength=0.1).log_probabilities(
            features * np.float32(factor)
        )
        for factor in (2.0**-9, 2.0**9)
    )
    np.testing.assert_allclose(small, large, atol=1e-3)


def test_rows_are_taken_part_by_part(monkeypatch):
    features, labels = _features(300)
    whole = fit_head(features, labels, class_weights=np.ones(4), strength=0.1)
    monkeypatch.setattr(regression, "_ROWS", 64)
    parts = fit_head(features, labels, class_weights=np.ones(4), strength=0.1)
    np.testing.assert_allclose(parts.kernel, whole.kernel, atol=1e-4)


@pytest.mark.parametrize(("apart", "seed"), [(0.2, 0), (0.6, 1), (2.0, 2)])
def test_the_strength_is_one_of_the_best_in_scikit_learns_cross_validation(apart, seed):
    features, labels = _features(250, apart=apart, seed=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    losses = {
        strength: log_loss(
            labels,
            cross_val_predict(_scikit(features, strength), features, labels, cv=folds, method="predict_proba"),
        )
        for strength in STRENGTHS
    }
    found = cross_validate(features, labels, class_weights=np.ones(4), seed=0)
    assert losses[found.strength] < min(losses.values()) + 0.02
    assert max(losses.values()) > min(losses.values()) + 0.05  # else any strength would do
    mine = log_loss(labels[found.examples], np.exp(found.log_probabilities))
    assert mine == pytest.approx(losses[found.strength], abs=0.06)


def test_labels_that_mean_nothing_are_not_learnt():
    """The head knows by heart what it has seen; what it is said to know of others is chance."""
    features, _ = _features(200, width=300)
    labels = np.random.default_rng(5).integers(0, 4, 200)
    found = cross_validate(features, labels, class_weights=np.ones(4), seed=0)
    assert found.strength == STRENGTHS[0]
    assert len(found.examples) == 200
    assert (found.log_probabilities.argmax(axis=1) == labels).mean() < 0.36
    assert -found.log_probabilities[np.arange(200), labels].mean() > 0.95 * np.log(4)


def test_the_same_seed_finds_the_same():
    features, labels = _features(120)
    one, two = (cross_validate(features, labels, class_weights=np.ones(4), seed=3) for _ in range(2))
    assert one.strength == two.strength
    np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)


def test_the_only_image_of_a_label_is_learnt_from_and_not_asked_about():
    features, labels = _features(80)
    labels = np.append(labels, 4)
    features = np.append(features, np.full((1, features.shape[1]), 9, np.float32), axis=0)
    found = cross_validate(features, labels, class_weights=np.ones(5), seed=0)
    assert sorted(found.examples) == list(range(80))


def test_one_image_a_label_leaves_nothing_to_compare():
    features, _ = _features(4)
    found = cross_validate(features, np.arange(4), class_weights=np.ones(4), seed=0)
    assert (len(found.examples), found.log_probabilities.shape) == (0, (0, 4))
    head = fit_head(features, np.arange(4), class_weights=np.ones(4), strength=found.strength)
    assert head.log_probabilities(features).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_of_many_images_a_sample_and_of_many_labels_some_folds_are_compared(monkeypatch):
    monkeypatch.setattr(regression, "_MOST_EXAMPLES", 200)
    features, labels = _features(500)
    found = cross_validate(features, labels, class_weights=np.ones(4), seed=0)
    assert len(found.examples) == 200
    assert found.examples.max() > 300
    monkeypatch.setattr(regression, "_MOST_LOGITS", 200 * 4 * 2 // 5)
    fewer = cross_validate(features, labels, class_weights=np.ones(4), seed=0)
    assert 60 <= len(fewer.examples) <= 100
