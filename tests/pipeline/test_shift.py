"""Tests of shifts against SciPy, a plain loop, and their own level."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from pipeline.shift import (
    holm,
    in_both,
    kolmogorov_smirnov,
    label_shift,
    maximum_mean_discrepancy,
    sample_positions,
    stratified_auc,
    total_variation,
    within_labels,
)


@pytest.mark.parametrize(
    ("before", "new"), [([50, 30, 20], [30, 10, 5]), ([200, 10, 0], [9, 4, 2]), ([40, 40], [20, 20])]
)
def test_label_shift_is_the_g_test(before, new):
    before, new = np.array(before), np.array(new)
    found = label_shift(before, new, seed=0)
    table = np.array([before, new])[:, before + new > 0]
    exact = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    if table.min() >= 5:  # where the asymptotic one is good
        assert found.p_value == pytest.approx(exact.pvalue, abs=0.03)
    assert found.distance == pytest.approx(np.abs(before / before.sum() - new / new.sum()).max() if len(new) == 2
                                           else total_variation(before, new))  # fmt: skip


def test_total_variation_is_half_the_differences():
    assert total_variation(np.array([1, 1]), np.array([3, 1])) == 0.25
    assert total_variation(np.array([0, 5]), np.array([7, 0])) == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_one_label_is_scipys_kolmogorov_smirnov(shift):
    random = np.random.default_rng(1)
    values = np.round(np.append(random.normal(size=150), random.normal(shift, size=40)), 1)  # with ties
    new = np.arange(190) >= 150
    found = kolmogorov_smirnov({"x": values}, np.zeros(190, int), new, seed=0)["x"]
    exact = stats.ks_2samp(values[~new], values[new])
    assert found.distance == pytest.approx(exact.statistic)
    same = stats.permutation_test(
        (values[~new], values[new]), lambda a, b: stats.ks_2samp(a, b).statistic, vectorized=False,
        n_resamples=300, alternative="greater", rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found.p_value == pytest.approx(same.pvalue, abs=0.06)


def _plain_mmd(kernel, first, second):
    def pairs(group):
        return sum(kernel[i, j] for i in group for j in group if i != j) / (len(group) * (len(group) - 1))

    cross = sum(kernel[i, j] for i in first for j in second) / (len(first) * len(second))
    return pairs(first) + pairs(second) - 2 * cross


def test_one_label_is_the_unbiased_mmd():
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 6))
    new = np.arange(30) >= 20
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    squared = ((directions[:, None] - directions[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(30, 1)]))
    found = maximum_mean_discrepancy(features, np.zeros(30, int), new, seed=0)
    assert found.distance == pytest.approx(_plain_mmd(kernel, range(20), range(20, 30)), abs=1e-9)


def test_more_of_one_label_are_no_other_kind_of_image():
    random = np.random.default_rng(0)
    labels = np.append(np.arange(200) % 2, np.zeros(60, int))
    features = random.normal(size=(260, 8)) + 3 * np.eye(8)[labels]
    new = np.arange(260) >= 200
    assert maximum_mean_discrepancy(features, labels, new, seed=0).p_value > 0.05
    assert maximum_mean_discrepancy(features, np.zeros(260, int), new, seed=0).p_value < 0.01  # if labels did not count
    assert kolmogorov_smirnov({"x": features[:, 0]}, labels, new, seed=0, permutations=999)["x"].p_value > 0.05
    features[200:] += 1.0
    assert maximum_mean_discrepancy(features, labels, new, seed=0).p_value < 0.01


@pytest.mark.parametrize("count", [6, 30])
def test_levels_hold_where_nothing_has_shifted(count):
    random = np.random.default_rng(count)
    low = {"ks": [], "mmd": [], "labels": []}
    for seed in range(120):
        labels = random.integers(3, size=80 + count)
        new = np.arange(len(labels)) >= 80
        values = random.normal(size=len(labels)) + labels
        features = random.normal(size=(len(labels), 5)) + np.eye(5)[labels]
        keep = in_both(labels, new)
        of = labels[keep], new[keep]
        low["ks"].append(kolmogorov_smirnov({"x": values[keep]}, *of, seed=seed, permutations=199)["x"].p_value)
        low["mmd"].append(maximum_mean_discrepancy(features[keep], *of, seed=seed, permutations=199).p_value)
        counts = [np.bincount(labels[part], minlength=3) for part in (~new, new)]
        low["labels"].append(label_shift(*counts, seed=seed, permutations=199).p_value)
    for name, p_values in low.items():
        alarms = int(np.sum(np.array(p_values) <= 0.1))
        assert stats.binomtest(alarms, 120, 0.1, alternative="greater").pvalue > 0.001, (name, alarms)


def test_permutations_keep_the_labels():
    labels, new = np.arange(50) % 4, np.arange(50) >= 37
    (groups,) = within_labels(labels, new, seed=0, permutations=40)
    for label in range(4):
        assert (groups[:, labels == label].sum(axis=1) == new[labels == label].sum()).all()
    assert len({row.tobytes() for row in groups}) == 40


def test_holm_is_the_published_procedure():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}  # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    )
    assert holm({}) == {}


def test_the_area_under_the_curve_is_scikit_learns_within_a_label():
    random = np.random.default_rng(0)
    scores, new = np.round(random.random(60), 1), random.random(60) < 0.3
    assert stratified_auc(scores, np.zeros(60, int), new) == pytest.approx(metrics.roc_auc_score(new, scores))
    labels = np.arange(60) % 2
    weighted = [(metrics.roc_auc_score(new[labels == one], scores[labels == one]),
                 new[labels == one].sum() * (~new[labels == one]).sum()) for one in (0, 1)]  # fmt: skip
    expected = np.average([auc for auc, _ in weighted], weights=[pairs for _, pairs in weighted])
    assert stratified_auc(scores, labels, new) == pytest.approx(expected)


def test_samples_hold_some_of_each_group():
    new = np.arange(100) >= 90
    at = sample_positions(new, most=20, seed=0)
    assert (np.count_nonzero(new[at]), np.count_nonzero(~new[at])) == (10, 20)
    assert (np.diff(at) > 0).all()
