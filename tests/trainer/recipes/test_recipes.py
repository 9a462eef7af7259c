"""Tests that every published recipe trains, a few steps from random weights, what it says and nothing else."""

import re

import numpy as np
import pytest

from tests.trainer.runs import train, weights
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts
from trainer.train.model import build_from_recipe

FACTS = DataFacts(num_train=37, num_classes=3, max_side=16)
SMALL = ("weights=none", "ema_decay=0", "batch_size=8", "steps_per_call=2", "image_size=32", "phases.0.duration=2st")
TWO = ("phases.1.duration=2st", "phases.1.warmup=0st", "phases.1.flat=0st")
FIRST_ONLY = (*TWO, "phases.1.lr_min=0", "phases.1.lr_max=0")
SECOND_ONLY = (*TWO, "phases.0.lr_max=0")
SOLVED = "phases.0.duration=1st"  # a head that is solved for
# B0's signal dies out between random weights and unused statistics of batch normalisation; Lite0's does not.
LITE0 = "backbone=efficientnet_lite0"

ALL_OF_IT, HEAD, LAST_BLOCK = r".*", r"head/", r"head/|backbone/block5_conv[123]/"
# Training changes none of these: fine-tuning leaves the statistics of batch normalisation alone, but where a phase
# has batch_norm=train.
STATISTICS, COUNTER = r".*(moving_mean|moving_variance)$", r".*seed_generator_state$"


@pytest.mark.parametrize(
    ("name", "settings", "trained"),
    [
        ("cifar10_cnn", (), ALL_OF_IT),
        pytest.param("scraped_vgg16", (), LAST_BLOCK, marks=pytest.mark.slow),
        pytest.param("big_cats_vgg16", (), LAST_BLOCK, marks=pytest.mark.slow),
        pytest.param("oxford_pets_resnet", (), ALL_OF_IT, marks=pytest.mark.slow),
        pytest.param("oxford_pets_resnet50", (), ALL_OF_IT, marks=pytest.mark.slow),
        pytest.param("cifar10_efficientnet", ("resize_to=40", *FIRST_ONLY), HEAD, marks=pytest.mark.slow),
        pytest.param("cifar10_efficientnet", (LITE0, "resize_to=40", *SECOND_ONLY), ALL_OF_IT, marks=pytest.mark.slow),
        pytest.param("photos", (*FIRST_ONLY, SOLVED), HEAD, marks=pytest.mark.slow),
        pytest.param("photos", (*SECOND_ONLY, SOLVED), r"head/|backbone/(block[4567]|top_)", marks=pytest.mark.slow),
    ],
)
def test_the_right_layers_train_and_the_others_stay_to_the_bit(name, settings, trained, tiny_data, tmp_path):
    recipe = override(load_recipe(name, FACTS), [*SMALL, *settings])
    before = weights(build_from_recipe(recipe, num_classes=3, seed=0))
    trainer, classifier, _ = train(tiny_data, recipe, tmp_path)
    after = weights(classifier)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    learns_statistics = any(phase.batch_norm == "train" for phase in recipe.phases)
    state = COUNTER if learns_statistics else f"{STATISTICS}|{COUNTER}"
    assert moved == {path for path in before if re.match(trained, path) and not re.match(state, path)}
    assert all(np.isfinite(row["loss"]) for row in trainer.rows)
