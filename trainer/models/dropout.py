"""Dropout whose masks differ between replicas."""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="trainer")
class ReplicaDropout(keras.layers.Layer):
    """Dropout with a mask of its own on every replica.

    Keras' Dropout draws from a seed variable that is the same on all replicas, so their masks are identical and the
    effective number of masks a step falls to one. Here the replica's index is folded into the seed. The variable counts
    calls, is part of a checkpoint, and so makes the masks of a resumed run those of an uninterrupted one.
    """

    def __init__(self, rate: float, *, seed: int, name: str):
        super().__init__(name=name)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed, name=f"{name}_seed")
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        context = tf.distribute.get_replica_context()
        if context is not None:  # None in cross-replica context, e.g. when the graph is built
            replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
            seed += tf.stack([replica * 0x9E3779B, 0])  # an odd constant, so that neighbouring seeds do not meet
        return tf.nn.experimental.stateless_dropout(inputs, rate=self.rate, seed=seed)

    def compute_output_spec(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {"rate": self.rate, "seed": self.seed, "name": self.name}
