"""Tests every figure of an evaluation against scikit-learn and SciPy."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from pipeline.command import DataError, UsageError
from pipeline.predictions import Predictions, predictions_file, read_predictions
from pipeline.slices import parts_of
from trainer.report.comparison import compare, mcnemar
from trainer.report.measures import (
    at_temperature,
    average_precision,
    brier,
    coverage_at,
    log_loss,
    measure,
    precision_recall,
    slices,
    threshold_for,
    top_k,
)


def some(count=200, classes=4, seed=0, *, right=2.0, temperature=1.0):
    """Makes answers, most of them right."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    logits = random.normal(size=(count, classes)) + right * np.eye(classes)[labels]
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(
        ids=[f"{n:064x}" for n in range(count)],
        labels=labels,
        names=[f"label {n}" for n in range(classes)],
        log_probabilities=log_probabilities.astype(np.float32),
        temperature=temperature,
    )


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (4, 1), (12, 2)])
def test_figures_are_scikit_learns(classes, seed):
    found = some(classes=classes, seed=seed)
    of = measure(found)
    labels, probabilities = found.labels, np.exp(found.log_probabilities.astype(np.float64))
    answers = probabilities.argmax(axis=1)
    assert of.accuracy == pytest.approx(metrics.accuracy_score(labels, answers))
    assert of.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, answers))
    assert of.macro_f1 == pytest.approx(metrics.f1_score(labels, answers, average="macro"))
    assert of.log_loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(classes)), rel=1e-6)
    whole = {"labels": range(classes), "scale_by_half": False}
    expected = (
        metrics.brier_score_loss(labels, probabilities, **whole)
        if classes > 2
        else 2 * metrics.brier_score_loss(labels, probabilities[:, 1])
    )
    assert of.brier == pytest.approx(expected, rel=1e-6)
    assert sorted(of.top) == [k for k in (2, 3, 5) if k < classes]
    for k, share in of.top.items():
        assert share == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(classes)))
    report = metrics.classification_report(
        labels, answers, labels=range(classes), target_names=found.names, output_dict=True, zero_division=np.nan
    )
    for index, one in enumerate(of.labels):
        assert one.recall == pytest.approx(report[one.label]["recall"])
        assert one.precision == pytest.approx(report[one.label]["precision"], nan_ok=True)
        assert one.f1 == pytest.approx(report[one.label]["f1-score"])
        truth = labels == index
        assert one.average_precision == pytest.approx(metrics.average_precision_score(truth, probabilities[:, index]))
        wilson = stats.binomtest(int((truth & found.correct).sum()), int(truth.sum())).proportion_ci(method="wilson")
        assert one.recall_interval == pytest.approx((wilson.low, wilson.high))
        precision, recall, _ = metrics.precision_recall_curve(truth, found.log_probabilities[:, index])
        ours = precision_recall(found, index)
        for point in zip(*ours, strict=True):
            assert np.isclose(precision, point[0]).any()
            assert np.isclose(recall, point[1]).any()


def test_equal_scores_are_ranked_together():
    found = Predictions(
        ids=["a", "b", "c"],
        labels=np.array([0, 1, 0]),
        names=["x", "y"],
        log_probabilities=np.log([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]),
    )
    expected = metrics.average_precision_score(found.labels == 0, [0.5, 0.5, 0.2])
    assert average_precision(found, 0) == pytest.approx(expected)
    assert threshold_for(found, 1 / 3) == pytest.approx(0.5)
    assert threshold_for(found, 0.9) is None


def test_temperature_goes_back_and_forth():
    found = some(temperature=2.0)
    hot = at_temperature(found, 1.0)
    logits = found.log_probabilities.astype(np.float64) * 2
    np.testing.assert_allclose(
        np.exp(hot.log_probabilities), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-6
    )
    np.testing.assert_allclose(at_temperature(hot, 2.0).log_probabilities, found.log_probabilities, atol=1e-6)
    of = measure(found)
    assert of.uncalibrated_log_loss == pytest.approx(log_loss(hot))
    assert of.log_loss != pytest.approx(of.uncalibrated_log_loss)


def test_a_threshold_is_the_lowest_that_is_right_often_enough():
    found = some(count=500, right=1.5)
    threshold = threshold_for(found, 0.9)
    accuracies = {
        float(t): found.correct[found.confidence >= t].mean() for t in np.unique(found.confidence)
    }  # every one there is
    assert threshold == pytest.approx(min(t for t, accuracy in accuracies.items() if accuracy >= 0.9))
    other = some(count=400, seed=9, right=1.5)
    answered = other.confidence >= threshold
    found_there = coverage_at(other, threshold, 0.9)
    assert found_there.coverage == answered.mean()
    assert found_there.accuracy == other.correct[answered].mean()
    assert measure(other, validation=found).coverage.threshold == threshold_for(found, 0.95)


def test_labels_that_the_model_does_not_know_are_wrong_answers():
    found = some()
    unknown = dataclasses.replace(found, labels=np.where(np.arange(200) < 20, -1, found.labels))
    assert measure(unknown).accuracy == pytest.approx(found.correct[20:].sum() / 200)
    assert top_k(unknown, 3) <= 180 / 200
    known = dataclasses.replace(
        found, ids=found.ids[20:], labels=found.labels[20:], log_probabilities=found.log_probabilities[20:]
    )
    assert log_loss(unknown) == pytest.approx(log_loss(known))
    assert brier(unknown) == pytest.approx(brier(known))


def test_a_slice_is_the_tenth_that_has_least_and_is_compared_with_the_rest():
    found = some(count=300)
    dark = np.random.default_rng(0).random(300)
    facts = {"brightness": dark, "sharpness": np.full(300, np.nan), "area": np.ones(300)}
    (part,) = slices(found, parts_of(facts))
    inside = dark <= np.quantile(dark, 0.1)
    assert (part.name, part.examples) == ("darkest tenth", inside.sum())
    assert part.accuracy == found.correct[inside].mean()
    assert part.rest == found.correct[~inside].mean()
    assert part.difference[0] < part.accuracy - part.rest < part.difference[1]


def test_predictions_come_back_and_equal_ones_are_equal_bytes(tmp_path):
    found = some(temperature=1.25)
    found = dataclasses.replace(found, names=["日本", "عربي", "🐶", "ä"])
    (tmp_path / "predictions-test.npz").write_bytes(found.to_bytes())
    again = read_predictions(tmp_path, "test")
    assert (list(again.ids), list(again.names), again.temperature) == (list(found.ids), list(found.names), 1.25)
    np.testing.assert_array_equal(again.log_probabilities, found.log_probabilities)
    np.testing.assert_array_equal(again.labels, found.labels)
    assert again.to_bytes() == found.to_bytes()


def test_absent_and_damaged_predictions_are_named(tmp_path):
    with pytest.raises(UsageError, match="predictions-test.npz: no such file; "):
        read_predictions(tmp_path, "test")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no finished run, or one of an earlier version .*goes on with it"):
        read_predictions(tmp_path, "test")
    content = some().to_bytes()
    for damage in (content[:500], b"", b"PK\3\4 other", content.replace(b"labels", b"lapels")):
        (tmp_path / "predictions-validation.npz").write_bytes(damage)
        with pytest.raises(DataError, match="predictions-validation.npz: damaged .*scores the model anew"):
            read_predictions(tmp_path, "validation")
    with pytest.raises(UsageError, match="the run has predictions on validation"):
        read_predictions(tmp_path, "test")
    assert predictions_file("gs://b/run", "test") == "gs://b/run/predictions-test.npz"


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (7, 9), (30, 12), (200, 260), (3000, 2900)])
def test_mcnemar_is_scipys_sign_test(counts):
    expected = stats.binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == pytest.approx(expected)


def test_models_are_compared_by_image_and_name():
    one = some(seed=1)
    turned = some(seed=2)
    order = np.random.default_rng(0).permutation(200)[:150]
    names = list(reversed(one.names))
    other = Predictions(  # other order, other images, labels in another order
        ids=[one.ids[at] for at in order] + ["f" * 64],
        labels=3 - np.append(one.labels[order], 0),
        names=names,
        log_probabilities=np.concatenate([turned.log_probabilities[order], turned.log_probabilities[:1]])[:, ::-1],
    )
    found = compare(one, other)
    first, second = one.correct[order], turned.log_probabilities[order].argmax(axis=1) == one.labels[order]
    assert (found.pairs, found.left_out) == (150, 51)
    assert found.right == (first.sum(), second.sum())
    assert sorted(found.won.tolist()) == sorted(order[first & ~second].tolist())
    assert sorted(found.lost.tolist()) == sorted(order[second & ~first].tolist())
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.interval[0] < found.difference < found.interval[1]
    back = compare(other, one)
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert back.p_value == found.p_value == mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(DataError, match="no image in common"):
        compare(some(), dataclasses.replace(some(), ids=["x"] * 200))
