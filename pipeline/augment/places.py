"""Gives every operation its places in an example's stream of uniform numbers, and tabulates functions of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Which uniform of an example's stream feeds what. Fixed places: switching one operation on changes no other's draws.
FLIP, SHIFT_X, SHIFT_Y, ZOOM, SHEAR, ROTATION, CROP_AREA, CROP_ASPECT, CROP_X, CROP_Y = range(10)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(10, 14)
CUTOUT = 16  # two each: centre x, centre y

_LEVELS = 4096


def tabulated(function: Callable[[np.ndarray], np.ndarray], u: tf.Tensor, *, most: float) -> tf.Tensor:
    """Evaluates `function` at numbers uniform in ±most, by a table of `_LEVELS` steps; `u`: uniform in [0, 1).

    A table, because TensorFlow's sine, cosine and exponential round differently in a vector register than alone:
    results would depend on the place in the batch.
    """
    table = function((np.arange(_LEVELS) + 0.5) / _LEVELS * 2.0 * most - most)
    return tf.gather(tf.constant(table, tf.float32), tf.cast(u * _LEVELS, tf.int32))


def draws(cutouts: int) -> int:
    """Counts the uniform numbers that an example needs; `cutouts`: how many squares are cut out of it."""
    return CUTOUT + 2 * cutouts
