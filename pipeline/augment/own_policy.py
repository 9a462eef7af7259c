"""Applies a policy that a user has written: a function of one image and a seed.

    def sepia(image, seed):
        # image: float32 [H, W, 3], 0..255; seed: int32 [2] → the same shape; what leaves 0..255 is cut off
        share = tf.random.stateless_uniform([], seed)
        ...

All its chance must come from the seed, which is a function of (the run's seed, epoch, record), so that a resumed run
sees the same images: TensorFlow's `stateless_` operations do. It is traced, with AutoGraph, and runs on the host, image
by image, after our own augmentation and before images are mixed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.augment.random_bits import mix_tensor
from pipeline.own_code import OwnCode, find

Policy = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_RUNS = 2


def seeds(identities: tf.Tensor, *, key: tf.Tensor) -> tf.Tensor:
    """Draws a seed for every example: uint64 `[N]` and a key of `stream_key` → int32 `[N, 2]`."""
    return tf.bitcast(mix_tensor(tf.bitwise.bitwise_xor(identities, key)), tf.int32)


@functools.cache
def own_policy(name: str, *, height: int, width: int) -> Policy:
    """Returns a user's policy as a function of one image, float32 `[H, W, 3]`, 0..255, and its seed, int32 `[2]`.

    Args:
      name: `FILE.py:function` or `MODULE:function`.
      height, width: of the images, on one of which it is tried.

    Raises:
      UsageError: there is no such function, it raises something, gives another shape, or other pixels for the same
        image and seed.
    """
    code = find(name)
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
    seed = tf.constant([1, 2], tf.int32)
    # Traced twice, each run twice: NumPy's chance differs between traces, TensorFlow's between runs.
    with code.blamed():
        results = [traced(tf.constant(noise), seed).numpy() for traced in (_traced(code), _traced(code)) * _RUNS]
    if not all(np.array_equal(results[0], other) for other in results):
        raise code.refuse(
            "gives other pixels for the same image and seed, so that a resumed run would not be what it would have "
            "been; draw from the seed: tf.random.stateless_uniform(shape, seed), tf.image.stateless_random_…"
        )
    return _traced(code)


def _traced(code: OwnCode) -> Policy:
    converted = tf.function(code.load())

    def policy(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with code.blamed():
            changed = converted(image, seed)
        if not tf.is_tensor(changed) or not changed.shape.is_compatible_with(image.shape):
            shape = f" of the shape {changed.shape}" if tf.is_tensor(changed) else ""
            raise code.refuse(f"returns {type(changed).__name__}{shape}, not an image of the shape {image.shape}")
        return tf.ensure_shape(tf.clip_by_value(tf.cast(changed, tf.float32), 0.0, 255.0), image.shape)

    return tf.function(policy, autograph=False)
