"""Tests which images are unlike all others, against scikit-learn."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from trainer.check.outliers import find_outliers, neighbour_distances


def _features(count):
    random = np.random.default_rng(0)
    return (random.normal(size=(count, 16)) * 0.3 + np.eye(16)[random.integers(3, size=count)]).astype(np.float32)


def test_distances_are_scikit_learns():
    features = _features(1_500)  # more than are compared at a time
    model = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features)
    expected = model.kneighbors(features)[0][:, 1:].mean(axis=1)
    np.testing.assert_allclose(neighbour_distances(features), expected, atol=1e-5)


def test_what_lies_elsewhere_is_found_the_farthest_first():
    features = _features(400) * 0.2 + np.eye(16, dtype=np.float32)[0]
    features[[7, 90]] = 0
    features[7, 5], features[90, [6, 7]] = 3.0, (3.0, 1.0)
    found = find_outliers(features)
    assert set(found[:2]) == {7, 90}
    assert len(found) < 6


def test_few_images_have_no_outliers():
    assert not len(find_outliers(_features(5)))
    assert not len(find_outliers(np.ones((50, 4), np.float32)))
