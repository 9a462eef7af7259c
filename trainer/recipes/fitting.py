"""Fits a recipe to a TPU: a batch that fills its cores, with what depends on the batch, and less work for the host.

The rule. A core gets as many images as hold the pixels of 64 images of 224 × 224, a power of two from 8 (rows of its
matrix unit's tile) to 128 (where its efficiency levels off, https://docs.cloud.google.com/tpu/docs/performance-guide);
all cores together no more than leaves an epoch 32 steps, and never fewer than the recipe has. Learning rates grow with
the batch: in proportion for SGD (arXiv 1706.02677), with its square root for Adam (arXiv 2205.10287); a moving average
keeps its span in images (arXiv 2307.13813). Recipes that repeat a published experiment keep its batch (`fixed_batch`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from absl import logging

from trainer.recipes.recipe import Recipe

_PIXELS_A_CORE = 64 * 224 * 224
_FEWEST, _MOST = 8, 128  # images a core
_STEPS_AN_EPOCH = 32  # at least


def images_a_core(side: int) -> int:
    """Counts the images of `side` × `side` pixels that fill a core."""
    fit = max(_FEWEST, _PIXELS_A_CORE // side**2)
    return min(_MOST, 1 << fit.bit_length() - 1)


def fitting_batch(recipe: Recipe, *, cores: int, num_train: int) -> int:
    """Returns the batch that the rule above gives a recipe, its own where that is larger.

    Args:
      recipe: as it would be on other devices.
      cores: of the TPU.
      num_train: examples in the training split.
    """
    each = images_a_core(recipe.resize_to or recipe.image_size)
    while each > 1 and each * cores * _STEPS_AN_EPOCH > num_train:
        each //= 2
    return max(recipe.batch_size, each * cores)


def fit_to_tpu(recipe: Recipe, *, cores: int, num_train: int, given: Collection[str]) -> Recipe:
    """Returns the recipe as it runs on a TPU, and logs what is other than on other devices.

    Args:
      recipe: as it would be on other devices.
      cores: of the TPU.
      num_train: examples in the training split.
      given: keys that the user has set, e.g. `batch_size`: those stay.
    """
    recipe = _with_larger_batch(recipe, cores=cores, num_train=num_train, given=given)
    augment = recipe.augment
    if "augment.on_accelerator" in given or augment.policy or recipe.unpaired(cores):
        return recipe
    return dataclasses.replace(recipe, augment=dataclasses.replace(augment, on_accelerator=True))


def _with_larger_batch(recipe: Recipe, *, cores: int, num_train: int, given: Collection[str]) -> Recipe:
    batch = fitting_batch(recipe, cores=cores, num_train=num_train)
    if recipe.fixed_batch or "batch_size" in given or batch == recipe.batch_size:
        return recipe
    factor = batch / recipe.batch_size
    rates = factor if recipe.optimizer.name == "sgd" else factor**0.5
    logging.info(
        "on %d TPU cores batch_size is %d, %d images a core, where the recipe has %d, and rates are %.3g times "
        "its own; --set=batch_size=%d keeps both",
        cores, batch, batch // cores, recipe.batch_size, rates, recipe.batch_size,
    )  # fmt: skip
    phases = tuple(
        dataclasses.replace(phase, lr_min=phase.lr_min * rates, lr_max=phase.lr_max * rates) for phase in recipe.phases
    )
    return dataclasses.replace(recipe, batch_size=batch, phases=phases, ema_decay=recipe.ema_decay**factor)
