"""What an augmentation does to pixels without moving them: one colour matrix, one mask.

For one image or a whole batch alike, and XLA can compile it, so it may run on the accelerator.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow's convert("L")


def recolour(images: tf.Tensor, matrix: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
    """Applies the colour matrix and clips to 0..255.

    Args:
      images: float32 `[..., H, W, 3]`, an image or a batch, sizes static.
      matrix: float32 `[..., 3, 3]`; contrast, brightness: float32 `[...]`.

    Returns:
      float32, the same shape.
    """
    height, width = images.shape[-3], images.shape[-2]
    batch = tf.shape(images)[:-3]
    # The mean as a matrix product over whole rows: a reduction over the colour axis is ten times slower.
    rows = tf.reshape(images, tf.concat([batch, [height, width * 3]], axis=0))
    weights = np.tile(np.array(LUMA, np.float32), width) / np.float32(height * width)
    grey = tf.reduce_sum(tf.linalg.matvec(rows, tf.constant(weights)), axis=-1)
    # The matrix leaves grey alone, so contrast around a grey and brightness together are one number for all channels.
    offset = grey * (1.0 - contrast) + brightness
    pixels = tf.reshape(images, tf.concat([batch, [height * width, 3]], axis=0))
    linear = matrix * contrast[..., tf.newaxis, tf.newaxis]
    out = tf.matmul(pixels, linear, transpose_b=True) + offset[..., tf.newaxis, tf.newaxis]
    return tf.reshape(tf.clip_by_value(out, 0.0, 255.0), tf.shape(images))


def cut_out(images: tf.Tensor, cutouts: tf.Tensor, *, fill: float) -> tf.Tensor:
    """Overwrites squares.

    Args:
      images: float32 `[..., H, W, 3]`, an image or a batch, sizes static.
      cutouts: float32 `[..., count, 4]` from `draw_cutouts`.

    Returns:
      float32, the same shape.
    """
    height, width = images.shape[-3], images.shape[-2]

    def inside(low: tf.Tensor, high: tf.Tensor, size: int, repeats: int) -> tf.Tensor:
        centres = tf.constant(np.repeat((np.arange(size) + 0.5) / size, repeats), tf.float32)
        return tf.cast((centres >= low[..., tf.newaxis]) & (centres < high[..., tf.newaxis]), tf.float32)

    # Rows times columns, three columns a pixel: one matrix product gives the mask in the layout of the pixels.
    rows = inside(cutouts[..., 1], cutouts[..., 3], height, 1)
    columns = inside(cutouts[..., 0], cutouts[..., 2], width, 3)
    keep = tf.nn.relu(1.0 - tf.matmul(rows, columns, transpose_a=True))
    flat = tf.reshape(images, tf.shape(keep))
    return tf.reshape(flat * keep if fill == 0.0 else (flat - fill) * keep + fill, tf.shape(images))
