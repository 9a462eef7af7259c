import numpy as np
import pytest
from sklearn import calibration, metrics

from trainer.report import scores


def random_predictions(classes, count=500, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    predicted = np.where(rng.random(count) < 0.7, truth, rng.integers(0, classes, count))
    return truth, predicted


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_class_scores_equal_scikit_learns(classes):
    truth, predicted = random_predictions(classes)
    confusion = metrics.confusion_matrix(truth, predicted, labels=range(classes))
    found = scores.class_scores([f"c{i}" for i in range(classes)], confusion)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(classes), zero_division=np.nan
    )
    assert [s.precision for s in found] == pytest.approx(list(precision))
    assert [s.recall for s in found] == pytest.approx(list(recall))
    assert [s.f1 for s in found] == pytest.approx(list(f1))
    assert [s.examples for s in found] == list(support)


def test_a_ratio_without_a_denominator_is_none():
    found = scores.class_scores(["a", "b", "c"], np.array([[3, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert (found[1].recall, found[1].precision, found[1].f1) == (0.0, None, 0.0)
    assert (found[2].recall, found[2].precision, found[2].f1, found[2].recall_interval) == (None,) * 4


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(ValueError, match="2 labels"):
        scores.class_scores(["a", "b"], np.eye(3, dtype=int))


def test_most_confused_lists_mistakes_only_largest_first():
    confusion = np.array([[9, 1, 0], [4, 5, 1], [0, 1, 0]])
    found = scores.most_confused(["a", "b", "c"], confusion, limit=3)
    assert [(c.label, c.predicted, c.count, c.share) for c in found] == [
        ("b", "a", 4, 0.4),
        ("c", "b", 1, 1.0),
        ("a", "b", 1, 0.1),
    ]


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_equals_scikit_learns_curve(bins):
    rng = np.random.default_rng(1)
    confidence = rng.random(2000)
    correct = rng.random(2000) < confidence**1.3
    found = scores.reliability(confidence, correct, bins=bins)
    accuracy, mean = calibration.calibration_curve(correct, confidence, n_bins=bins, strategy="uniform")
    assert [b.accuracy for b in found] == pytest.approx(list(accuracy))
    assert [b.confidence for b in found] == pytest.approx(list(mean))
    counts, _ = np.histogram(confidence, bins, (0, 1))
    assert [b.examples for b in found] == list(counts)
    expected = np.sum(counts * np.abs(accuracy - mean)) / 2000
    assert scores.calibration_error(found) == pytest.approx(expected)


def test_reliability_keeps_the_ends_and_leaves_empty_bins_out():
    found = scores.reliability(np.array([0.0, 1.0, 1.0, 0.5]), np.array([False, True, False, True]))
    assert [(round(b.low, 1), round(b.high, 1), b.examples) for b in found] == [
        (0.0, 0.1, 1),
        (0.4, 0.5, 1),
        (0.9, 1.0, 2),
    ]
    assert scores.calibration_error(found) == pytest.approx((0 + 0.5 + 2 * 0.5) / 4)
