"""Makes counter-based random numbers, the same in NumPy and TensorFlow, on every platform and in every version.

Library generators tie a number to a stream or to their own version. Here a number is a pure function of
(seed, epoch, purpose, identity, draw), so nothing about threads, batches or hosts can change it. The mixer is
SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_UNIFORM_BITS = 24  # what a float32 mantissa holds exactly


def mix(value: int) -> int:
    """Computes the first number of SplitMix64 for one Python integer as its seed (taken modulo 2^64)."""
    z = (value + _GOLDEN) & _MASK
    z = ((z ^ z >> 30) * _MIX_1) & _MASK
    z = ((z ^ z >> 27) * _MIX_2) & _MASK
    return z ^ z >> 31


def stream_key(*, seed: int, epoch: int, purpose: str) -> int:
    """Derives a 64-bit key for one use of randomness in one epoch; different uses never share numbers."""
    key = mix(seed & _MASK)
    for part in (epoch, int.from_bytes(purpose.encode(), "big") % (_MASK - 58)):
        key = mix(key ^ (part & _MASK))
    return key


def mix_numpy(values: np.ndarray) -> np.ndarray:
    """Applies `mix` to uint64 values, elementwise."""
    z = values.astype(np.uint64) + np.uint64(_GOLDEN)
    z = (z ^ z >> np.uint64(30)) * np.uint64(_MIX_1)
    z = (z ^ z >> np.uint64(27)) * np.uint64(_MIX_2)
    return z ^ z >> np.uint64(31)


def mix_tensor(values: tf.Tensor) -> tf.Tensor:
    """Applies `mix` to a uint64 tensor, elementwise."""

    def shift(z: tf.Tensor, bits: int) -> tf.Tensor:
        return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(bits, tf.uint64)))

    z = values + tf.constant(_GOLDEN, tf.uint64)
    z = shift(z, 30) * tf.constant(_MIX_1, tf.uint64)
    z = shift(z, 27) * tf.constant(_MIX_2, tf.uint64)
    return shift(z, 31)


def uniforms(identities: tf.Tensor, *, key: tf.Tensor, draws: int) -> tf.Tensor:
    """Draws the uniform numbers that belong to each example.

    Args:
      identities: uint64 `[N]`, one number per example, a function of the record alone.
      key: uint64 scalar from `stream_key`.
      draws: how many numbers an example needs. More draws never change the first ones.

    Returns:
      float32 `[N, draws]` in [0, 1), multiples of 2^-24.
    """
    states = mix_tensor(tf.bitwise.bitwise_xor(identities, key))
    # A NumPy array: of a list of numbers above 2^63, tf.constant keeps 53 bits inside a graph, and all in eager mode.
    steps = tf.constant(np.array([(i * _GOLDEN) & _MASK for i in range(draws)], np.uint64))
    bits = mix_tensor(states[:, tf.newaxis] + steps)
    top = tf.bitwise.right_shift(bits, tf.constant(64 - _UNIFORM_BITS, tf.uint64))
    return tf.cast(tf.cast(top, tf.int32), tf.float32) * (2.0**-_UNIFORM_BITS)
