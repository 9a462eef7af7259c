"""Reaches into Keras where it has no public way; the only file that does, so that a new Keras breaks one file.

`tests/trainer/models/test_keras_private.py` fails first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

_NUMBERS = "object_name_uids"


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Lists the model's layers, those inside of layers included."""
    return list(model._flatten_layers())


@contextlib.contextmanager
def numbered_from_zero() -> Iterator[None]:
    """Numbers the layers that are made in the block, where they have no name, as if they were the process' first."""
    before = global_state.get_global_attribute(_NUMBERS)
    global_state.set_global_attribute(_NUMBERS, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_NUMBERS, before)


def draw_seeds_by(layer: keras.layers.Dropout, next_seed: Callable[..., tf.Tensor]) -> None:
    """Makes a dropout layer call `next_seed(ordered=…)`, int32 [2], instead of counting on its own."""
    layer.seed_generator.next = next_seed


def name_seed_state(layer: keras.layers.Dropout, path: str) -> None:
    """Gives the variable in which a dropout layer counts a path of our choice."""
    layer.seed_generator.state._path = path


def producer(layer: keras.layers.Layer) -> keras.Operation:
    """Returns the operation of a functional model whose output is the layer's input."""
    return layer.input._keras_history.operation


def consumers(operation: keras.Operation) -> int:
    """Counts the places of a functional model where the operation's output goes."""
    return len(operation._outbound_nodes)


def operations_by_depth(model: keras.Model) -> list[list[keras.Operation]]:
    """Lists a functional model's operations by levels, those first that others depend on."""
    levels = model._nodes_by_depth
    return [[node.operation for node in levels[depth]] for depth in sorted(levels, reverse=True)]


def first_call(operation: keras.Operation) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    """Returns the inputs and the outputs of an operation's first call in a functional model."""
    node = operation._inbound_nodes[0]
    return node.input_tensors, node.output_tensors
