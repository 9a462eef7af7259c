"""Tests that the published recipes have their sources' sizes and learning rates."""

import importlib
import math

import numpy as np
import pytest

from trainer.recipes.load import load_recipe, recipe_names
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts
from trainer.train.model import build_from_recipe
from trainer.train.optimizer import trainable_groups


def _count(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def sizes(name, classes, *settings):
    """Returns how many values each phase trains, and how many there are."""
    facts = DataFacts(num_train=1000, num_classes=classes, max_side=500)
    recipe = override(load_recipe(name, facts), ["weights=none", *settings])
    classifier = build_from_recipe(recipe, num_classes=classes, seed=0)
    trained = [
        _count(v for group in trainable_groups(classifier, phase).values() for v in group) for phase in recipe.phases
    ]
    state = ("seed_generator_state",)
    every = [v for v in (*classifier.backbone.variables, *classifier.head.variables) if not v.path.endswith(state)]
    return trained, _count(every)


def rates(name, *, num_train):
    """Returns the learning rates of all steps, phase by phase."""
    recipe = load_recipe(name, DataFacts(num_train=num_train, num_classes=10, max_side=500))
    per_epoch = math.ceil(num_train / recipe.batch_size)
    return [phase.learning_rates(steps_per_epoch=per_epoch) for phase in recipe.phases]


def test_scraped_vgg16():
    """The source prints 31,497,033 parameters, 23,861,769 of them trainable; Adam at 1e-4."""
    assert sizes("scraped_vgg16", 9) == ([23_861_769], 31_497_033)
    (table,) = rates("scraped_vgg16", num_train=3_600)
    assert set(table) == {np.float32(1e-4)}


def test_big_cats_vgg16():
    """VGG16 (14,714,688) without what its last block (7,079,424) does not train; 50 epochs of 50 steps at 1e-4."""
    head = 512 * 1024 + 1024 + 1024 * 4 + 4
    assert sizes("big_cats_vgg16", 4) == ([7_079_424 + head], 14_714_688 + head)
    (table,) = rates("big_cats_vgg16", num_train=600)
    assert len(table) == 50 * 50
    assert set(table) == {np.float32(1e-4)}


def test_cifar10_cnn():
    """Four convolutions of 64 filters, a last map of 8 × 8 × 64, 512 units; five epochs of Adam at 1e-3."""
    convolutions = (3 * 9 * 64 + 64) + 3 * (64 * 9 * 64 + 64)
    head = (8 * 8 * 64 * 512 + 512) + (512 * 10 + 10)
    assert sizes("cifar10_cnn", 10) == ([convolutions + head], convolutions + head)
    (table,) = rates("cifar10_cnn", num_train=40_000)
    assert len(table) == 5 * 1_250
    assert set(table) == {np.float32(1e-3)}


def test_cifar10_efficientnet():
    """B0 has 5,330,571 parameters with ImageNet's top of 1,281,000 (Keras); rates from 0.001 to 0.025 and back."""
    head = 1280 * 10 + 10
    statistics = 42_016  # of batch normalisation
    normalization = 7  # ImageNet's mean and variance, which Keras keeps in the model, and a counter
    backbone = 5_330_571 - 1_281_000
    trained, every = sizes("cifar10_efficientnet", 10)
    assert trained == [head, backbone - statistics - normalization + head]
    assert every == backbone - normalization + head
    first, second = rates("cifar10_efficientnet", num_train=50_000)
    assert (len(first), set(first)) == (5 * 250, {np.float32(0.001)})
    assert len(second) == 35 * 250
    np.testing.assert_allclose([second[0], second.max(), second[-1]], [0.001, 0.025, 0.001], rtol=0.02)
    assert (second >= 0.025 * (1 - 1e-6)).sum() >= 5 * 250  # flat
    assert (np.diff(second[: 10 * 250]) > 0).all()
    assert (np.diff(second[15 * 250 :]) < 0).all()


def test_oxford_pets_resnet():
    """ResNet-34 has 21,797,672 parameters with its top of 513,000 (torchvision); the options of its source."""
    head = 512 * 37 + 37
    backbone = 21_797_672 - 513_000
    trained, every = sizes("oxford_pets_resnet", 37)
    assert trained == [backbone + head]
    assert every == backbone + 17_024 + head  # and the statistics of batch normalisation
    recipe = load_recipe("oxford_pets_resnet", DataFacts(num_train=1_850, num_classes=37, max_side=500))
    assert (recipe.image_size, recipe.eval_centre * 256) == (224, 224)  # resize to 256, then crop
    assert (recipe.augment.random_resized_crop, recipe.augment.flip) == (0.08, True)
    assert (recipe.optimizer.name, recipe.optimizer.momentum) == ("sgd", 0.9)
    assert [phase.batch_norm for phase in recipe.phases] == ["train"]
    check_pets_rates("oxford_pets_resnet")


def test_oxford_pets_resnet50():
    """ResNet-50 has 25,636,712 parameters with ImageNet's top of 2,049,000 (Keras)."""
    head = 2048 * 37 + 37
    backbone = 25_636_712 - 2_049_000
    trained, every = sizes("oxford_pets_resnet50", 37)
    assert trained == [backbone - 53_120 + head]
    assert every == backbone + head
    check_pets_rates("oxford_pets_resnet50")


def check_pets_rates(name):
    """0.001, × 0.9 every three epochs."""
    (table,) = rates(name, num_train=1_850)
    per_epoch = math.ceil(1_850 / 32)
    expected = [0.001 * 0.9 ** (epoch // 3) for epoch in range(30)]
    np.testing.assert_allclose(table[::per_epoch], expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted({*recipe_names()} - {"photos", "quick"}))  # which repeat no experiment
def test_every_recipe_says_what_is_claimed_what_differs_and_what_was_measured(name):
    said = importlib.import_module(f"trainer.recipes.{name}").__doc__
    for words in ("claims", "differs", "Measured here", "python -m trainer.main", f"--recipe={name} "):
        assert words in said, words


@pytest.mark.parametrize(("name", "batch"), [("scraped_vgg16", 32), ("big_cats_vgg16", 32), ("cifar10_cnn", 32)])
def test_batches(name, batch):
    assert load_recipe(name, DataFacts(num_train=1000, num_classes=10, max_side=500)).batch_size == batch
