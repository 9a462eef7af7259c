"""Makes what updates the weights: which variables train, at which rate, with which of Keras' optimizers."""

from __future__ import annotations

import re

import keras
import numpy as np
import tensorflow as tf

from pipeline.command import UsageError
from trainer.models.classifier import Classifier
from trainer.recipes.recipe import OptimizerConfig, Phase


class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Looks the learning rate up by step: what is logged and what the optimizer uses are one array."""

    def __init__(self, table: np.ndarray) -> None:
        """Takes the learning rate of every step, float32 [steps]."""
        self._table = tf.Variable(table, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def assign(self, table: np.ndarray) -> None:
        """Takes another table of the same length; nothing is compiled anew."""
        self._table.assign(table)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._table, tf.minimum(tf.cast(step, tf.int32), self._table.shape[0] - 1))

    def get_config(self) -> dict[str, object]:
        return {"table": self._table.numpy().tolist()}


def trainable_groups(classifier: Classifier, phase: Phase) -> dict[float, list[keras.Variable]]:
    """Groups the variables that a phase trains by their learning-rate multiplier.

    Raises:
      UsageError: a variable that no pattern covers, or a pattern that covers none.
    """
    groups: dict[float, list[keras.Variable]] = {}
    unused = {pattern for pattern, _ in phase.trainable}
    for variable in [*classifier.backbone.trainable_variables, *classifier.head.trainable_variables]:
        for pattern, multiplier in phase.trainable:
            if re.match(pattern, variable.path):
                unused.discard(pattern)
                if multiplier:
                    groups.setdefault(multiplier, []).append(variable)
                break
        else:
            raise UsageError(
                f'phase {phase.name}: no pattern of trainable covers "{variable.path}"; '
                'add one, e.g. [".*", null] at the end to freeze the rest'
            )
    if unused:
        raise UsageError(f'phase {phase.name}: pattern "{min(unused)}" of trainable matches no variable')
    if not groups:
        raise UsageError(f"phase {phase.name}: trainable freezes every variable; nothing would train")
    return groups


def make_optimizer(config: OptimizerConfig, rates: TableSchedule) -> keras.optimizers.Optimizer:
    """Makes a Keras optimizer of the recipe's kind."""
    if config.name == "sgd":
        return keras.optimizers.SGD(rates, momentum=config.momentum)
    if config.name == "adam":
        return keras.optimizers.Adam(rates)
    return keras.optimizers.AdamW(rates, weight_decay=config.weight_decay)
