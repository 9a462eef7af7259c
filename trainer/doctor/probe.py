"""Asks TensorFlow itself for `trainer.doctor`, in a process of its own: a wrong libtpu aborts the import.

Prints one JSON object a line, so that what was learnt before an abort is not lost: first what TensorFlow is and sees,
then what two training steps on the best device did.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels

from trainer.devices.strategy import describe, make_strategy

_BATCH_PER_REPLICA = 8


def facts() -> dict[str, Any]:
    """Tells TensorFlow's version and devices, Keras' backend, and whether the kernel that runs TPU programs is in."""
    tpu_kernels = {kernel.op for kernel in kernels.get_registered_kernels_for_op("TPUExecute").kernel}
    return {
        "version": tf.__version__,
        "keras_backend": keras.backend.backend(),
        "tpu_kernels": bool(tpu_kernels),
        "devices": sorted(device.device_type for device in tf.config.list_physical_devices()),
    }


def train_step(*, tpu: str) -> dict[str, Any]:
    """Trains two steps of a tiny convolutional classifier; the weights must move.

    Returns:
      strategy: what it ran on; first, second: seconds of the steps (the first one compiles); loss; moved.
    """
    strategy = make_strategy(tpu)
    rng = np.random.default_rng(0)
    count = _BATCH_PER_REPLICA * strategy.num_replicas_in_sync
    images, labels = rng.random((count, 32, 32, 3), np.float32), rng.integers(0, 2, count).astype(np.int32)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    def replica_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("mean", strategy.run(replica_step, args=(x, y)), axis=None)

    batches = tf.data.Dataset.from_tensors((images, labels)).repeat().unbatch().batch(count, drop_remainder=True)
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    before, seconds = model.get_weights(), []
    for _ in range(2):
        start = time.perf_counter()
        loss = float(step(*next(iterator)))
        seconds.append(round(time.perf_counter() - start, 4))
    moved = any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    return {"strategy": describe(strategy), "first": seconds[0], "second": seconds[1], "loss": loss, "moved": moved}


if __name__ == "__main__":
    print(json.dumps(facts()), flush=True)
    print(json.dumps(train_step(tpu="".join(sys.argv[1:]))), flush=True)
