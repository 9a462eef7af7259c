"""Tests what is said of images that were added."""

import numpy as np
import pytest

from trainer.check.arrivals import compare_arrivals
from trainer.check.verdict import judge_arrivals


def _images(count, *, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    return (random.normal(size=(count, 20)) + 2 * np.eye(20)[labels]).astype(np.float32), labels


def _compare(features, labels, new, *, doubted=None):
    everywhere = np.ones(len(labels), bool)
    return compare_arrivals(
        features, labels, np.arange(len(labels)), new, asked=everywhere,
        doubted=~everywhere if doubted is None else doubted, strength=1.0, seed=0,
    )  # fmt: skip


def test_more_of_the_same_is_like_the_others():
    features, labels = _images(300)
    new = np.arange(300) >= 240
    found = _compare(features, labels, new)
    assert (found.new, found.compared) == (60, 60)
    assert found.pixels.p_value > 0.05
    assert 0.35 < found.separable < 0.65
    assert [one.level for one in judge_arrivals(found)] == ["green", "green"]


def test_other_photos_are_told_apart_and_others_of_one_label_only_are_not():
    features, labels = _images(300)
    new = np.arange(300) >= 240
    labels[240:] = 0
    features[240:] += 2 * np.eye(20)[0] - 2 * np.eye(20)[_images(300)[1][240:]]
    assert _compare(features, labels, new).pixels.p_value > 0.05
    features[240:, 10:] += 1.5
    found = _compare(features, labels, new)
    assert found.pixels.p_value < 0.01
    assert found.separable > 0.9
    (unlike, _) = judge_arrivals(found)
    assert unlike.level == "amber"
    assert unlike.short == "added images are unlike the others"


def test_wrong_labels_among_the_added_are_counted_against_the_others():
    features, labels = _images(300)
    new = np.arange(300) >= 240
    doubted = np.isin(np.arange(300), [3, 9, *range(240, 270)])
    found = _compare(features, labels, new, doubted=doubted)
    assert (found.doubted, found.doubted_before) == ((30, 60), (2, 240))
    assert [one.short for one in judge_arrivals(found)] == ["", "added images have wrong labels"]


@pytest.mark.parametrize("added", [1, 4])
def test_of_a_handful_nothing_is_said(added):
    features, labels = _images(100)
    found = _compare(features, labels, np.arange(100) >= 100 - added)
    assert found.pixels is None
    assert found.separable is None


def test_new_labels_are_not_compared():
    features, labels = _images(100)
    labels[60:] = 7
    found = _compare(features, labels, np.arange(100) >= 60)
    assert (found.new, found.compared) == (40, 0)
