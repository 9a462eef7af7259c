"""Makes the model that a recipe trains: its precision, its layers and weights, and dropout that can be repeated.

Dropout masks are a function of the step and the replica, so that they differ and a resumed run draws them again.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from absl import logging

from trainer.devices.strategy import describe, is_tpu
from trainer.models.classifier import Classifier, build_classifier
from trainer.models.inherit import inherit
from trainer.models.keras_private import all_layers, draw_seeds_by
from trainer.recipes.recipe import Recipe

_seed: contextvars.ContextVar[tf.Tensor] = contextvars.ContextVar("dropout_seed")


@contextlib.contextmanager
def dropout_seed(seed: tf.Tensor) -> Iterator[None]:
    """Makes dropout inside the block a function of `seed`, int32 [2]; the training step folds in step and replica."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def seed_dropout(model: keras.Model) -> None:
    """Lets every dropout layer of `model` draw from the `dropout_seed` in force instead of from a counter of its own.

    Keras' counter is a variable that replicas share, so all would drop the same units, and its value depends on how
    often the layer ran, so a mask could not be drawn again from the step's number. The layer stays Keras' own and
    exports as such.
    """
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Dropout) and layer.rate > 0]
    for index, layer in enumerate(layers):
        draw_seeds_by(layer, functools.partial(_next_seed, index))


def _next_seed(index: int, ordered: bool = True) -> tf.Tensor:
    del ordered  # Keras' signature
    return tf.random.experimental.stateless_fold_in(_seed.get(), index)


def set_precision(recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    """Sets Keras' precision: the recipe's, which by default is bfloat16 on TPU."""
    low_precision = recipe.precision == "bfloat16" or (recipe.precision == "auto" and is_tpu(strategy))
    keras.config.set_dtype_policy("mixed_bfloat16" if low_precision else "float32")
    logging.info("%s, %s", describe(strategy), "bfloat16" if low_precision else "float32")


@contextlib.contextmanager
def float32_policy() -> Iterator[bool]:
    """Gives layers made inside float32, unless they are given a precision; yields whether the policy is another."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield policy.name != "float32"
    finally:
        keras.config.set_dtype_policy(policy)


def build_from_recipe(recipe: Recipe, *, num_classes: int, seed: int, weights: str | None = None) -> Classifier:
    """Builds the recipe's classifier, with `weights` in place of the recipe's if given."""
    classifier = build_classifier(
        backbone=recipe.backbone,
        weights=weights or recipe.first_weights,
        num_classes=num_classes,
        height=recipe.image_size,
        width=recipe.image_size,
        resize_to=recipe.resize_to,
        head=recipe.head,
        seed=seed,
    )
    for model in (classifier.backbone, classifier.head):
        seed_dropout(model)
    return classifier


def first_model(recipe: Recipe, *, labels: Sequence[str], seed: int, strategy: tf.distribute.Strategy) -> Classifier:
    """Builds the recipe's classifier as its training starts: with the recipe's weights, or with an earlier model's."""
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=len(labels), seed=seed)
    if recipe.init:
        logging.info("%s", inherit(classifier, labels, recipe.init, share=recipe.init_share))
    return classifier
