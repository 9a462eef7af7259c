"""Computes the features of a dataset's images as the head phase of a run would, and keeps them for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import TRAIN, DatasetVersion
from trainer.devices.strategy import make_strategy
from trainer.recipes.recipe import Recipe
from trainer.request import Request
from trainer.rundir import fit_batch
from trainer.train.model import first_model, set_precision
from trainer.train.plan import Plan
from trainer.train.predictor import Predictor


def compute_features(
    request: Request, recipe: Recipe, data: DatasetVersion, counts: Mapping[str, int], *, folder: storage.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes features of the first images of splits; what is known already is read.

    Args:
      request: what a run would be asked for.
      recipe: that it means.
      data: the dataset that it names.
      counts: split → how many images, at least.
      folder: what is computed is kept in `features` below it.

    Returns:
      split → features (float32 [N, F]) and labels (int32 [N]), in file order.
    """
    strategy = make_strategy()
    num_train = data.manifest.num_examples(TRAIN)
    recipe = fit_batch(recipe, replicas=strategy.num_replicas_in_sync, num_train=num_train)
    set_precision(recipe, strategy)
    plan = Plan(
        recipe=recipe,
        data=data,
        seed=request.seed,
        run=folder,
        class_weights=np.ones(data.manifest.num_classes, np.float32),
        stop_requested=lambda: False,
    )
    classifier = first_model(recipe, labels=data.manifest.labels, seed=request.seed, strategy=strategy)
    predictor = Predictor(plan, classifier, strategy)
    return {split: predictor.features(split, most=count) for split, count in counts.items()}


def pooled(recipe: Recipe) -> Recipe:
    """Returns the recipe with features that are averaged over the picture, whatever its head takes."""
    return dataclasses.replace(recipe, head=dataclasses.replace(recipe.head, pooling="avg"))
