"""Changes pixels without moving them: their colours by one matrix, cutouts by one mask.

`recolour` and `cut_out` take one image or a whole batch alike, and XLA can compile them, so they may run on the
accelerator.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from pipeline.augment import places
from pipeline.augment.config import AugmentConfig

LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow's convert("L")

# Hue turns the I and Q axes of YIQ (tf.image.rgb_to_yiq): from_yiq @ turn @ to_yiq = fixed + cos * even + sin * odd.
_TO_YIQ = np.array([LUMA, [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])
_HUE_PARTS = tuple(
    np.linalg.inv(_TO_YIQ) @ np.array(turn, float) @ _TO_YIQ
    for turn in (
        [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
    )
)


def draw_colour(config: AugmentConfig, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws the colour change of each example: `out = M @ (contrast * x + (1 - contrast) * grey) + brightness`.

    Returns:
      M float32 `[N, 3, 3]` (saturation, then hue; grey stays grey), contrast `[N]`, brightness `[N]` in 0..255 units.
    """

    def factor(draw: int, most: float) -> tf.Tensor:
        return 1.0 + (u[:, draw] * 2.0 - 1.0) * most

    saturation = factor(places.SATURATION, config.saturation)[:, tf.newaxis, tf.newaxis]
    turned = tf.eye(3)
    if config.hue:
        cos, sin = (places.tabulated(f, u[:, places.HUE], most=config.hue * 2.0 * math.pi) for f in (np.cos, np.sin))
        fixed, even, odd = (tf.constant(part, tf.float32) for part in _HUE_PARTS)
        turned = fixed + even * cos[:, tf.newaxis, tf.newaxis] + odd * sin[:, tf.newaxis, tf.newaxis]
    # Sums and products only: a matmul would round differently for other numbers of examples. Turning leaves grey alone,
    # so turned @ (s * identity + (1 - s) * to_grey) = s * turned + (1 - s) * to_grey.
    matrix = saturation * turned + (1.0 - saturation) * tf.constant([LUMA] * 3, tf.float32)
    return (
        matrix,
        factor(places.CONTRAST, config.contrast),
        (factor(places.BRIGHTNESS, config.brightness) - 1.0) * 255.0,
    )


def draw_cutouts(config: AugmentConfig, u: tf.Tensor) -> tf.Tensor:
    """Draws squares, float32 `[N, count, 4]`: left, top, right, bottom of each, as fractions of the output's sides."""
    centres = tf.reshape(u[:, places.CUTOUT : places.CUTOUT + 2 * config.cutout_count], [-1, config.cutout_count, 2])
    half = config.cutout_size / 2.0
    return tf.concat([centres - half, centres + half], axis=-1)


def recolour(
    images: tf.Tensor, matrix: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor, *, products: bool = True
) -> tf.Tensor:
    """Applies the colour change that `draw_colour` drew, and clips to 0..255.

    Args:
      images: float32 `[..., H, W, 3]`, an image or a batch, sizes static.
      matrix: float32 `[..., 3, 3]`; contrast, brightness: float32 `[...]`.
      products: whether to compute matrix products, the fast way on a CPU. A TPU rounds their factors to eight bits,
        which would cost a pixel up to a grey level; and three channels fill little of its matrix unit.

    Returns:
      float32, the same shape.
    """
    height, width = images.shape[-3], images.shape[-2]
    batch = tf.shape(images)[:-3]
    weights = np.array(LUMA, np.float32) / np.float32(height * width)
    if products:
        # The mean as a matrix product over whole rows: a reduction over the colour axis is ten times slower.
        rows = tf.reshape(images, tf.concat([batch, [height, width * 3]], axis=0))
        grey = tf.reduce_sum(tf.linalg.matvec(rows, tf.constant(np.tile(weights, width))), axis=-1)
    else:
        grey = tf.reduce_sum(images * weights, axis=[-3, -2, -1])
    # The matrix leaves grey alone, so contrast around a grey and brightness together are one number for all channels.
    offset = grey * (1.0 - contrast) + brightness
    pixels = tf.reshape(images, tf.concat([batch, [height * width, 3]], axis=0))
    linear = matrix * contrast[..., tf.newaxis, tf.newaxis]
    if products:
        out = tf.matmul(pixels, linear, transpose_b=True)
    else:
        out = tf.add_n([pixels[..., i : i + 1] * linear[..., tf.newaxis, :, i] for i in range(3)])
    out += offset[..., tf.newaxis, tf.newaxis]
    return tf.reshape(tf.clip_by_value(out, 0.0, 255.0), tf.shape(images))


def cut_out(images: tf.Tensor, cutouts: tf.Tensor, *, fill: float) -> tf.Tensor:
    """Overwrites squares with `fill`.

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
