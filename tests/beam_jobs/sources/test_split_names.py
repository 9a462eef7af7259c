"""Tests which names mean a split."""

import pytest

from beam_jobs.sources.split_names import split_of


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Train", "TRAINING", "training_set", "train-images", "trainset", "TrainData", " train "]),
        ("validation", ["validation", "valid", "val", "Val", "dev", "DEV", "eval", "valid_set", "val.data", "valset"]),
        ("test", ["test", "Testing", "test_set", "Test Images", "TestSet", "testset", "tst"]),
        (None, ["", "cat", "steam_train", "training_shoes", "tests", "trainer", "valley", "set", "images", "0", "_"]),
        (None, ["train_test", "unsupervised", "train[:10%]", "testosterone", "devil", "retrain", "train2"]),
    ],
)
def test_names_of_splits(split, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)
