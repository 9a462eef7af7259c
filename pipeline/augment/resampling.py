"""Renders windows of many images at once by matrix products, by which a TPU takes pixels from computed places fast.

A TPU computes products of float32 from factors that it rounds to bfloat16, to eight bits. The weights of a resize do
not fit into these, which would cost a pixel up to half a grey level; but pixels 0..255, zeros and ones do. So products
only select each output pixel's four neighbours, and are exact in any precision. These are then blended in float32,
element by element, in the order in which `decode.resize` does it on the host.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from pipeline.framing import box
from pipeline.view import View

COLUMNS = ("rows", "columns", "beyond", "flip")  # of `geometry.source_windows`


def unmoved_windows(
    heights: tf.Tensor, widths: tf.Tensor, *, height: int, width: int, view: View
) -> dict[str, tf.Tensor]:
    """Returns the windows of what is seen where nothing is augmented, `COLUMNS` of `geometry.source_windows`.

    Args:
      heights, widths: int32 `[N]`, of the sources.
      height, width: of the output.
      view: which part of them that is; none that pads.
    """
    begin, part = box(view, tf.stack([heights, widths], axis=-1), height=height, width=width)
    first = tf.cast(begin, tf.int32)
    windows = tf.stack([first, first + part], axis=-1)
    zero = tf.zeros_like(heights)
    return {
        "rows": windows[:, 0],
        "columns": windows[:, 1],
        "beyond": tf.stack([zero] * 4, axis=-1),
        "flip": zero,
    }


def _neighbours(
    wanted: tf.Tensor, beyond: tf.Tensor, *, largest: int, count: int, flip: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds which pixels of an axis each of `count` output pixels lies between.

    Args:
      wanted: int32 `[N, 2]`, first and last + 1 of the axis.
      beyond: int32 `[N, 2]`, how many pixels before and after are their mirror image.
      largest: pixels of the axis in the largest source.
      count: of output pixels.
      flip: int32 `[N]`, 1 where the axis runs backwards; or None.

    Returns:
      int32 `[N, 2, count]`, places of the lower and the upper neighbour; float32 `[N, count]`, the upper one's share.
    """
    first, last = wanted[:, :1], wanted[:, 1:]
    size = last - first + tf.reduce_sum(beyond, axis=1, keepdims=True)
    # By a table: a TPU does not round quotients correctly, and Grappler makes products of them. Zoom at most doubles.
    scale = tf.gather(tf.constant(np.arange(2 * largest + 1, dtype=np.float32) / np.float32(count)), size)
    at = (tf.range(count, dtype=tf.float32) + 0.5) * scale - 0.5
    below = tf.floor(at)
    lower = tf.maximum(tf.cast(below, tf.int32), 0)
    upper = tf.minimum(tf.cast(tf.math.ceil(at), tf.int32), size - 1)
    places = tf.stack([lower, upper], axis=1)
    first, last, size, before = (side[:, tf.newaxis] for side in (first, last, size, beyond[:, :1]))
    if flip is not None:
        places = tf.where(flip[:, tf.newaxis, tf.newaxis] > 0, size - 1 - places, places)
    places += first - before
    places = tf.where(places < first, 2 * first - 1 - places, places)
    return tf.where(places >= last, 2 * last - 1 - places, places), at - below


def resample(images: tf.Tensor, windows: Mapping[str, tf.Tensor], *, height: int, width: int) -> tf.Tensor:
    """Renders the windows of decoded images as `geometry.render_window` does one by one.

    Args:
      images: uint8 `[N, h, w, 3]`, each in the upper left corner if it is smaller.
      windows: `COLUMNS`, `[N, …]`.

    Returns:
      float32 `[N, height, width, 3]`.
    """
    beyond, (_, rows, columns, _) = windows["beyond"], images.shape
    below, down = _neighbours(windows["rows"], beyond[:, :2], largest=rows, count=height)
    beside, across = _neighbours(windows["columns"], beyond[:, 2:], largest=columns, count=width, flip=windows["flip"])
    pixels = tf.cast(images, tf.float32)
    pixels = tf.einsum("nhwc,niyh->niywc", pixels, tf.one_hot(below, rows))
    pixels = tf.einsum("niywc,njxw->nijyxc", pixels, tf.one_hot(beside, columns))
    across = across[:, tf.newaxis, tf.newaxis, :, tf.newaxis]
    pixels = pixels[:, :, 0] + (pixels[:, :, 1] - pixels[:, :, 0]) * across
    return pixels[:, 0] + (pixels[:, 1] - pixels[:, 0]) * down[:, :, tf.newaxis, tf.newaxis]
