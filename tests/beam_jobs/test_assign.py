"""Tests where a class is cut, on positions alone."""

import array
import collections

import pytest

from beam_jobs import assign, splits
from beam_jobs.build import make_settings
from beam_jobs.sources.folder import FolderSource
from beam_jobs.splits import SplitFractions
from tests.beam_jobs.image_folders import config


def cut(images, *, stratum=("train", "cat"), labels=(), seed=0, **changes):
    """Cuts a class of so many images, each a group of its own; returns split → images, and the error."""
    settings = make_settings(FolderSource("."), config("out", **changes))
    object.__setattr__(settings, "labels", labels)
    positions = [splits.position(b"%d" % number, seed=seed) for number in range(images)]
    key, found = assign.cut_class((stratum, [array.array("Q", positions).tobytes()]), settings)
    assert key == stratum
    cuts = splits.Cuts(names=found.names, bounds=found.bounds)
    return collections.Counter(map(cuts.split, positions)), found.error


@pytest.mark.parametrize(("images", "held_out"), [(5, 1), (8, 1), (30, 3), (95, 10), (1000, 100)])
def test_a_part_of_each_class_is_held_out_exactly(images, held_out):
    assert cut(images, validation_fraction=0.1) == ({"train": images - held_out, "validation": held_out}, "")


@pytest.mark.parametrize("split_by", ["rank", "hash"])
def test_of_many_tiny_classes_the_part_is_held_out_too_and_none_loses_its_last_image(split_by):
    total = collections.Counter()
    for seed in range(1000):
        found, _ = cut(3, seed=seed, validation_fraction=0.4 if split_by == "hash" else 0.1, split_by=split_by)
        assert found["train"]
        total += found
    assert total["validation"] / 3000 == pytest.approx(0.336 if split_by == "hash" else 0.1, abs=0.02)


def test_of_an_official_set_hashes_alone_decide():
    alone = [cut(1, labels=("cat",), seed=seed, split_by="hash", validation_fraction=0.5)[0] for seed in range(100)]
    assert 30 < sum(found["validation"] for found in alone) < 70
    assert cut(1, split_by="hash", validation_fraction=0.99)[0] == {"train": 1}


def test_all_can_be_held_out():
    assert cut(7, validation_fraction=1.0)[0] == {"validation": 7}


def test_a_class_that_is_too_small_stays_in_one_split_and_says_so():
    problem = 'class "cat": 2 distinct images for 3 splits'
    assert cut(2, stratum=("", "cat")) == ({"train": 2}, problem)
    assert cut(2, stratum=("", "cat"), split_by="hash", small_classes="train") == ({"train": 2}, problem)
    assert cut(2, stratum=("", "cat"), split_by="hash")[1] == ""  # as it always was
    folds = SplitFractions.parse("a:0.4,b:0.3,c:0.3")
    assert cut(2, stratum=("", "cat"), fractions=folds) == ({"a": 2}, problem)
