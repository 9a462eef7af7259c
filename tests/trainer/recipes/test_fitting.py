"""Tests how a recipe is fitted to a TPU: its batch, what follows from it, and that a run keeps what it began with."""

import dataclasses
import json
import logging

import pytest

from pipeline.command import UsageError
from tests.trainer.runs import SMALL
from trainer import run as trainer_run
from trainer.devices.stopping import Wishes
from trainer.recipes.fitting import fit_to_tpu, fitting_batch, images_a_core
from trainer.recipes.load import load_recipe, recipe_names
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts
from trainer.request import FINISHED, Request
from trainer.rundir import fit_batch


def recipe_of(name, *settings, num_train=1_000_000):
    facts = DataFacts(num_train=num_train, num_classes=10, max_side=500)
    return override(load_recipe(name, facts), settings)


def test_a_core_gets_a_power_of_two_by_the_pixels():
    assert [images_a_core(side) for side in (32, 64, 224, 240, 300, 456, 600, 2000)] == [128, 128, 64, 32, 32, 8, 8, 8]


@pytest.mark.parametrize(("cores", "num_train"), [(1, 1_281_167), (8, 1_281_167), (8, 5_000), (8, 800), (256, 50_000)])
def test_the_batch_fills_the_cores_and_leaves_steps_in_an_epoch(cores, num_train):
    recipe = recipe_of("photos", num_train=num_train)
    batch = fitting_batch(recipe, cores=cores, num_train=num_train)
    assert batch >= recipe.batch_size
    if batch > recipe.batch_size:
        assert batch % cores == 0
        assert num_train / batch >= 32
        # Twice the batch would overfill the cores or leave too few steps.
        assert batch // cores == images_a_core(224) or num_train / (2 * batch) < 32


@pytest.mark.parametrize(("optimizer", "rates"), [("sgd", 16), ("adam", 4), ("adamw", 4)])
def test_what_depends_on_the_batch_follows(optimizer, rates, caplog):
    recipe = recipe_of("photos", f"optimizer.name={optimizer}")
    with caplog.at_level(logging.INFO, logger="absl"):
        fitted = fit_to_tpu(recipe, cores=8, num_train=1_000_000, given=())
    assert (recipe.batch_size, fitted.batch_size) == (32, 512)
    for before, after in zip(recipe.phases, fitted.phases, strict=True):
        assert after.lr_max == pytest.approx(rates * before.lr_max)
        assert after.lr_min == pytest.approx(rates * before.lr_min)
        assert (after.duration, after.warmup) == (before.duration, before.warmup)
    assert fitted.ema_decay ** (1 / 512) == pytest.approx(recipe.ema_decay ** (1 / 32))  # the same for each image
    assert fitted.augment.on_accelerator
    assert "on 8 TPU cores batch_size is 512, 64 images a core, where the recipe has 32" in caplog.text
    assert "--set=batch_size=32 keeps both" in caplog.text


def test_what_the_user_has_set_stays():
    recipe = recipe_of("photos")
    given = ("batch_size", "augment.on_accelerator")
    assert fit_to_tpu(recipe, cores=8, num_train=1_000_000, given=given) == recipe
    mixed = recipe_of("photos", "augment.mixup=0.2", "batch_size=512")
    assert fit_to_tpu(mixed, cores=8, num_train=1_000_000, given=("batch_size",)).augment.on_accelerator


def test_the_host_mixes_where_a_core_has_no_pairs():
    mixed = recipe_of("photos", "augment.mixup=0.2", "batch_size=24")
    assert fit_to_tpu(mixed, cores=8, num_train=1_000_000, given=("batch_size",)) == mixed
    asked = dataclasses.replace(mixed, augment=dataclasses.replace(mixed.augment, on_accelerator=True))
    with pytest.raises(UsageError, match="8 replicas pieces of 3; --set=batch_size=32 works, and so does .*=false"):
        fit_batch(asked, replicas=8)


@pytest.mark.parametrize("name", recipe_names())
def test_published_experiments_keep_their_batch(name):
    recipe = recipe_of(name)
    fitted = fit_to_tpu(recipe, cores=8, num_train=1_000_000, given=())
    assert fitted.augment.on_accelerator
    if name not in ("photos", "quick"):
        assert (fitted.batch_size, fitted.phases) == (recipe.batch_size, recipe.phases)


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_as_it_began(tiny_data, tmp_path, monkeypatch):
    settings = [setting for setting in SMALL if not setting.startswith("batch_size")]
    flags = {"data": str(tiny_data.path), "recipe": "quick", "backbone": None, "weights": None, "seed": 0}
    request = Request(settings=(*settings, "phases.1.duration=1ep"), **flags)

    def train(*, on_tpu):
        monkeypatch.setattr(trainer_run, "is_tpu", lambda strategy: on_tpu)
        trainer_run.train_and_evaluate(
            request, tiny_data, str(tmp_path), Wishes(), strategy="cpu", tpu=None, profile=False
        )
        return json.loads((tmp_path / "config.json").read_text())

    began = train(on_tpu=True)
    assert began["tpu_cores"] == 1
    assert began["recipe"]["augment"]["on_accelerator"]
    (tmp_path / FINISHED).unlink()
    assert train(on_tpu=False) == began
