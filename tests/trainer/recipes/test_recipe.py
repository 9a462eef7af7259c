"""Tests recipes, their overrides, and what they refuse."""

import dataclasses
import json

import numpy as np
import pytest

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.view import View
from tests import datasets
from trainer.recipes import overrides
from trainer.recipes.load import adjust, extended, load_recipe, recipe_names, resolve
from trainer.recipes.recipe import DataFacts, Phase, Recipe
from trainer.recipes.schedule import Duration
from trainer.request import Request

FACTS = DataFacts(num_train=1000, num_classes=5, max_side=400)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_a_round_trip_through_json(name):
    recipe = load_recipe(name, FACTS)
    plain = json.loads(json.dumps(overrides.to_dict(recipe)))
    assert overrides.from_dict(Recipe, plain) == recipe
    for phase in recipe.phases:
        rates = phase.learning_rates(steps_per_epoch=32)
        assert len(rates) == phase.steps(steps_per_epoch=32)
        assert rates.max() == pytest.approx(phase.lr_max)


@pytest.mark.parametrize("flags", [{"backbone": "resnet50"}, {"settings": ("backbone=resnet50",)}])
def test_a_recipe_knows_the_backbone_wherever_it_is_named(tmp_path, flags):
    data = datasets.write_dataset(tmp_path, {"train": datasets.random_records(20, classes=2)}, ["a", "b"])
    given = {"backbone": None, "settings": (), **flags}
    recipe = resolve(Request(data=str(tmp_path), recipe="photos", weights=None, seed=0, **given), data)
    assert (recipe.backbone, recipe.phases[1].trainable[0]) == ("resnet50", ("backbone/conv[123]_", None))


def test_cifar10_efficientnet_is_the_published_schedule():
    recipe = load_recipe("cifar10_efficientnet", FACTS)
    top, whole = recipe.phases
    assert (top.steps(steps_per_epoch=250), whole.steps(steps_per_epoch=250)) == (5 * 250, 35 * 250)
    rates = whole.learning_rates(steps_per_epoch=250)
    assert rates[[0, 2499, 3749, -1]] == pytest.approx([0.001, 0.025, 0.025, 0.001])
    assert (recipe.batch_size, recipe.head.dropout, recipe.optimizer.momentum) == (200, 0.5, 0.9)
    assert (recipe.augment.cutout_count, recipe.augment.cutout_size) == (2, 0.4)


def test_any_b0_to_b7_by_flag_resizes_to_its_own_size():
    assert load_recipe("cifar10_efficientnet", FACTS).resize_to == 224
    larger = load_recipe("cifar10_efficientnet", FACTS, backbone="efficientnet_b5")
    assert (larger.backbone, larger.image_size, larger.resize_to) == ("efficientnet_b5", 32, 456)


def test_overrides():
    recipe = load_recipe("quick", FACTS)
    changed = overrides.override(
        recipe,
        ["phases.1.lr_max=0.01", "phases.0.duration=120st", "augment.shift=0", "head.hidden=64", "resize_to=260"],
    )
    assert changed.phases[1].lr_max == 0.01
    assert changed.phases[0].steps(steps_per_epoch=7) == 120
    assert changed.augment.shift == 0
    assert (changed.head.hidden, changed.resize_to) == (64, 260)
    assert overrides.differences(overrides.to_dict(recipe), overrides.to_dict(changed)) == [
        "augment.shift: 0.08 → 0.0",
        "head.hidden: 0 → 64",
        'phases.0.duration: "20ep" → "120st"',
        "phases.1.lr_max: " + json.dumps(recipe.phases[1].lr_max) + " → 0.01",
        "resize_to: null → 260",
    ]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("phases.1.lr_mx=1", r'no setting "phases\.1\.lr_mx"\. Did you mean "lr_max"'),
        ("phases.7.lr_max=1", r'no setting "phases\.7"'),
        ("batchsize=3", 'Did you mean "batch_size"'),
        ("batch_size", "write it as path=value"),
        ("batch_size=many", "batch_size is of type int, got 'many'"),
        ("batch_size=0", "batch_size must be 1 or more, got 0"),
        ("phases.1.duration=5", '"5" is not a duration'),
        ("phases.1.duration=10%", "give its duration in epochs"),
        ("phases.1.schedule=cosin", "schedule of phase upper must be one of"),
        ("optimizer.name=sdg", 'Did you mean "sgd"'),
        ("phases.1.lr_min=5", "lr_max 0.0001 is below lr_min 5"),
        ("backbone=efficientnet_lite9", "no backbone"),
        ('phases.1.trainable=[["(", 1.0]]', "not a regular expression"),
        ("label_smoothing=1", r"label_smoothing must be in \[0, 1\)"),
        ("eval_centre=87.5", r"eval_centre must be in 0\.\.1, got 87\.5"),
        ("resize=letterbox", 'resize must be one of stretch, pad, crop, got "letterbox"'),
        ("batch_size.x=1", r'no setting "batch_size\.x"'),
    ],
)
def test_bad_overrides_name_the_value_and_the_fix(assignment, message):
    recipe = overrides.override(load_recipe("photos", FACTS), ["phases.1.lr_max=0.0001", "phases.1.lr_min=0"])
    with pytest.raises(UsageError, match=message):
        overrides.override(recipe, [assignment])


def test_whole_images_are_not_seen_by_their_centre():
    recipe = load_recipe("oxford_pets_resnet", FACTS)
    with pytest.raises(
        UsageError, match="--set: resize=pad shows whole images, and eval_centre=0.875 their centre: set"
    ):
        overrides.override(recipe, ["resize=pad"])
    assert overrides.override(recipe, ["resize=pad", "eval_centre=0"]).view == View(resize="pad")
    assert overrides.override(load_recipe("photos", FACTS), ["resize=pad"]).view == View(resize="pad")


@pytest.mark.parametrize("name", recipe_names())
def test_a_run_from_before_resize_stretched(name):
    recipe = dataclasses.replace(load_recipe(name, FACTS), resize="stretch")
    plain = overrides.to_dict(recipe)
    del plain["resize"]
    assert overrides.from_dict(Recipe, plain) == recipe
    assert recipe.view == View(eval_centre=recipe.eval_centre)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UsageError, match='no such recipe.*Did you mean "photos"'):
        load_recipe("photo", FACTS)


def test_a_schedule_longer_than_its_phase_is_refused():
    recipe = overrides.override(load_recipe("cifar10_efficientnet", FACTS), ["phases.1.duration=12ep"])
    with pytest.raises(UsageError, match="warmup 10ep and flat 5ep are 150 steps, but the phase has 120"):
        recipe.phases[1].learning_rates(steps_per_epoch=10)


def test_a_run_s_configuration_starts_an_identical_one(tmp_path):
    recipe = overrides.override(load_recipe("photos", FACTS), ["batch_size=7"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"recipe": overrides.to_dict(recipe)}))
    assert load_recipe(str(file), FACTS) == recipe
    storage.write_atomically("memory://run/config.json", file.read_bytes())
    assert load_recipe("memory://run/config.json", FACTS) == recipe
    file.write_text("{}")
    with pytest.raises(UsageError, match=r"not the config\.json of a run"):
        load_recipe(str(file), FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phases.0.duration=5ep", "its duration is 1st, or 0ep, which leaves it out, got 5ep; with method=descent"),
        ("phases.0.lr_max=0.003", "lr_max=0.003 means nothing where method=regression"),
        ("phases.0.l2=0.1", "l2=0.1 means nothing"),
        ("phases.0.cached_features=false", "needs cached_features=true"),
        ("head.hidden=16", "phase head solves for a head without hidden layers"),
        ("phases.0.method=regresion", 'Did you mean "regression"'),
    ],
)
def test_what_a_head_that_is_solved_for_cannot_have_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        overrides.override(load_recipe("photos", FACTS), [change])


def test_a_head_that_is_solved_for_can_be_left_out_or_descended_to():
    (only,) = adjust(load_recipe("photos", FACTS), ["phases.0.duration=0ep"]).phases
    assert only.name == "upper"
    descent = ("phases.0.method=descent", "phases.0.duration=9ep", "phases.0.lr_max=0.003", "head.hidden=16")
    assert adjust(load_recipe("photos", FACTS), descent).phases[0].steps(steps_per_epoch=10) == 90
    (head,) = adjust(load_recipe("photos", FACTS), ["phases.1.duration=0ep"]).phases
    assert (head.solves, head.steps(steps_per_epoch=10)) == (True, 1)
    with pytest.raises(UsageError, match="--extend=5ep: phase head.5ep is solved for at once"):
        extended(dataclasses.replace(load_recipe("photos", FACTS), phases=(head,)), ["5ep"])


def test_step_decay_and_constant_phases():
    phase = Phase(
        name="x",
        duration=Duration.parse("6ep"),
        schedule="step_decay",
        lr_max=1.0,
        decay_factor=0.5,
        decay_every=Duration.parse("2ep"),
    )
    np.testing.assert_allclose(
        phase.learning_rates(steps_per_epoch=2), [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    )
