"""What is given in place of a flag that is none must be what a recipe takes: each is set on a recipe."""

import re

import pytest

from trainer.instead import set_instead
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts

FACTS = DataFacts(num_train=100, num_classes=3, max_side=64)


@pytest.mark.parametrize(
    ("flag", "value", "found"),
    [
        ("epochs", "3", lambda recipe: str(recipe.phases[1].duration) == "3ep"),
        ("epochs", "3ep", lambda recipe: str(recipe.phases[1].duration) == "3ep"),
        ("epochs", "", lambda recipe: str(recipe.phases[1].duration) == "10ep"),
        ("steps", "70", lambda recipe: str(recipe.phases[1].duration) == "70st"),
        ("lr", "3e-4", lambda recipe: recipe.phases[1].lr_max == 3e-4),
        ("learning_rate", "", lambda recipe: recipe.phases[1].lr_max == 1e-4),
        ("batch", "16", lambda recipe: recipe.batch_size == 16),
        ("batch_size", "16", lambda recipe: recipe.batch_size == 16),
        ("img_size", "96", lambda recipe: recipe.image_size == 96),
        ("optimizer", "", lambda recipe: recipe.optimizer.name == "adamw"),
        ("clip_norm", "1", lambda recipe: recipe.optimizer.clip_norm == 1),
        ("dropout", "0.3", lambda recipe: recipe.head.dropout == 0.3),
        ("patience", "4", lambda recipe: recipe.phases[1].patience == 4),
        ("mixup", "0.2", lambda recipe: recipe.augment.mixup == 0.2),
    ],
)
def test_what_is_given_instead_is_taken(flag, value, found):
    setting = re.search(r"--set=(\S+)", set_instead(flag, value))[1]
    assert found(override(load_recipe("photos", FACTS), [setting]))


def test_of_others_nothing_is_said():
    assert set_instead("recipies", "photos") is None
