"""Tests what preflight examines: counts, batches that chips can share, a sample of images."""

import dataclasses

import pytest

from pipeline.command import DataError, UsageError
from tests import datasets
from trainer.devices.tpus import parse_topology
from trainer.preflight import examine, facts, feeding
from trainer.preflight.question import Question
from trainer.recipes.load import load_recipe, recipe_names

V5E = parse_topology("v5e:2x4")


def _recipe(**changes):
    recipe = load_recipe("cifar10_cnn", facts.published_counts("cifar10_cnn").facts)
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize(
    ("batch", "accumulate", "chips", "expected"), [(200, 1, 8, 200), (32, 1, 64, 64), (200, 1, 16, 208), (32, 3, 8, 48)]
)
def test_a_batch_that_the_chips_cannot_share_is_rounded_up_with_a_note(batch, accumulate, chips, expected):
    recipe, notes = examine.split_batch(_recipe(batch_size=batch, accumulate=accumulate), chips)
    assert recipe.batch_size == expected
    assert bool(notes) == (batch != expected)
    assert all(f"--set=batch_size={expected}" in note for note in notes)


def test_every_recipe_has_counts_to_be_examined_with():
    for name in recipe_names():
        counts = facts.published_counts(name)
        load_recipe(name, counts.facts)


def test_counts_come_from_the_data(tmp_path):
    records = {
        "train": datasets.random_records(5, classes=3),
        "validation": datasets.random_records(2, classes=3, seed=1),
    }
    counts = facts.counts_of(datasets.write_dataset(tmp_path / "a", records, ["a", "b", "c"]))
    assert (counts.train, counts.validation, counts.classes, counts.side) == (5, 2, 3, 32)
    only_test = datasets.write_dataset(tmp_path / "b", {"test": records["train"]}, ["a", "b", "c"])
    with pytest.raises(DataError, match="no examples in split train; it has test"):
        facts.counts_of(only_test)


@pytest.mark.parametrize(
    ("name", "chips", "train", "said"),
    [
        ("cifar10_cnn", 8, 50_000, ": --set=batch_size=1024 gives 128;"),
        ("big_cats_vgg16", 8, 600, "; 128 would, but 600 images are too few for a larger batch: 1 chip would do"),
        ("cifar10_efficientnet", 2, 50_000, None),
    ],
)
def test_a_batch_too_small_is_said_with_the_number_to_use(name, chips, train, said):
    recipe = load_recipe(name, facts.published_counts(name).facts)
    notes = examine.notes_on_batch(recipe, chips=chips, num_train=train)
    assert len(notes) == (said is not None)
    assert all(said in note for note in notes)


def test_an_unknown_recipe_is_refused_before_anything_is_compiled():
    with pytest.raises(UsageError, match='no such recipe.*Did you mean "photos"'):
        next(examine.examine(Question(recipe="photo", target=V5E), compiler=None))


def test_the_sample_is_a_dataset_and_feeding_it_takes_time(tmp_path):
    data = feeding.write_sample(tmp_path, count=6, height=30, width=40)
    assert [(r.height, r.width, r.label) for r in data.read("train")] == [(30, 40, i % 2) for i in range(6)]
    feed = feeding.measure(_recipe(), data, side=40, seconds=0.2)
    assert feed.images > 0
    assert 1e-6 < feed.core_seconds < 1
    assert str(tmp_path) in feed.sample
