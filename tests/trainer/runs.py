"""Trains a small model on small data."""

from __future__ import annotations

import contextlib
import pathlib

import numpy as np
import tensorflow as tf

from pipeline.format.manifest import DatasetVersion
from trainer.models.classifier import Classifier
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts, Recipe
from trainer.train.loop import Trainer
from trainer.train.model import build_from_recipe
from trainer.train.plan import Plan, Position, class_weights
from trainer.train.residence import place

SMALL = (
    "backbone=cifar10_cnn",
    "weights=none",
    "image_size=16",
    "batch_size=8",
    "steps_per_call=2",
    "head.hidden=16",
    "phases.0.duration=2ep",
    "phases.1.duration=2ep",
    "phases.1.lr_max=0.001",
    "phases.1.lr_min=0.0001",
)
SOLVED = ("head.hidden=0", "phases.0.method=regression", "phases.0.duration=1st", "phases.0.lr_max=0", "phases.0.l2=0")


def small_recipe(*assignments: str) -> Recipe:
    facts = DataFacts(num_train=37, num_classes=3, max_side=16)
    return override(load_recipe("quick", facts), [*SMALL, *assignments])


def train(
    data: DatasetVersion,
    recipe: Recipe,
    run: pathlib.Path,
    *,
    strategy: tf.distribute.Strategy | None = None,
    stop_requested=lambda: False,
    seed: int = 0,
    cache: str = "auto",
    at_once=contextlib.nullcontext,
    check_owner=lambda: None,
) -> tuple[Trainer, Classifier, Position]:
    strategy = strategy or tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=seed)
    run.mkdir(parents=True, exist_ok=True)
    on_host, resident = place(cache, recipe, data, strategy)
    plan = Plan(
        recipe=recipe,
        data=data,
        seed=seed,
        run=run,
        class_weights=class_weights(recipe, data),
        stop_requested=stop_requested,
        at_once=at_once,
        check_owner=check_owner,
        cache=on_host,
        resident=resident,
    )
    trainer = Trainer(plan, classifier, strategy)
    return trainer, classifier, trainer.train()


def weights(classifier: Classifier) -> dict[str, np.ndarray]:
    return {v.path: v.numpy() for v in [*classifier.backbone.variables, *classifier.head.variables]}
