"""Tests what helps to understand mistakes, against scikit-learn, and which images the report picks."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from tests.trainer.report.test_measures import some
from trainer.report.explanations import FILE, Explanations, plane, read_explanations
from trainer.report.gallery import heated, pick
from trainer.report.scores import Confusion, most_confused


def _explained():
    random = np.random.default_rng(0)
    return Explanations(
        split="test",
        ids=[f"{n:064x}" for n in range(20)],
        features=random.normal(size=(20, 8)).astype(np.float16),
        train_ids=[f"{n:064x}" for n in range(100, 160)],
        train_labels=random.integers(3, size=60),
        train_features=random.normal(size=(60, 8)).astype(np.float16),
        looked_at=[f"{3:064x}"],
        pictures=random.integers(0, 256, (1, 20, 20, 3), dtype=np.uint8),
        heat=random.random((1, 7, 7)).astype(np.float32),
    )


def test_they_come_back(tmp_path):
    assert read_explanations(tmp_path) is None
    found = _explained()
    (tmp_path / FILE).write_bytes(found.to_bytes())
    again = read_explanations(tmp_path)
    for name in ("features", "train_labels", "train_features", "pictures", "heat"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    for name in ("ids", "train_ids", "looked_at"):
        assert list(getattr(again, name)) == list(getattr(found, name))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"not ours"])
def test_damaged_ones_are_left_out_with_a_warning(tmp_path, caplog, content):
    (tmp_path / FILE).write_bytes(content)
    assert read_explanations(tmp_path) is None
    assert f"{FILE}: damaged" in caplog.text


def test_the_likest_training_images_are_scikit_learns():
    found = _explained()
    model = NearestNeighbors(n_neighbors=3, metric="cosine").fit(found.train_features.astype(np.float32))
    for at, image in enumerate(found.ids):
        (expected,) = model.kneighbors(found.features[at : at + 1].astype(np.float32), return_distance=False)
        assert found.nearest_training_images(image, 3) == [found.train_ids[place] for place in expected]
    assert found.nearest_training_images("f" * 64, 3) == []


@pytest.mark.parametrize("shape", [(50, 200), (300, 20), (3, 5)])
def test_the_plane_is_scikit_learns(shape):
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1])
    expected = PCA(2).fit_transform(features)
    found = plane(features)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-6)


def test_what_the_answer_depends_on_is_red():
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 0.4
    found = heated(np.full((70, 70, 3), 128, np.uint8), heat).astype(int)
    redness = found[..., 0] - found[..., 2]
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    assert (row // 10, column // 10) == (1, 5)
    assert (found[60:, :20] == 128).all()


def test_the_worst_mistakes_the_least_sure_and_the_pairs_are_picked():
    found = some(count=300, right=1.0)
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (found.labels, found.predicted), 1)
    confusions = most_confused(found.names, confusion, limit=15)
    picked = pick(found, confusions)
    own = found.log_probabilities[np.arange(300), found.labels]
    wrong = np.flatnonzero(~found.correct)
    assert list(picked.mistakes) == sorted(wrong.tolist(), key=lambda at: own[at])[:24]
    others = [at for at in range(300) if at not in picked.mistakes]
    assert list(picked.unsure) == sorted(others, key=lambda at: found.confidence[at])[:12]
    for pair, positions in picked.pairs:
        assert pair.count >= 3
        assert all(found.names[found.labels[at]] == pair.label for at in positions)
        assert all(found.names[found.predicted[at]] == pair.predicted for at in positions)
    assert len(picked.pairs) == 6
    seldom = [Confusion(label="label 0", predicted="label 1", count=2, examples=70)]
    assert pick(found, seldom).pairs == []
