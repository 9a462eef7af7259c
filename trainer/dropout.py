"""Dropout masks as a function of the step and the replica, so that they differ and can be had again."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import keras
import tensorflow as tf

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
    often the layer ran, so a mask could not be had again from the step's number. The layer stays Keras' own and
    exports as such.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout) and layer.rate > 0]
    for index, layer in enumerate(layers):
        layer.seed_generator.next = functools.partial(_next_seed, index)


def _next_seed(index: int, ordered: bool = True) -> tf.Tensor:
    del ordered  # Keras' signature
    return tf.random.experimental.stateless_fold_in(_seed.get(), index)
