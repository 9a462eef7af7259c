"""The geometric half of augmentation: one affine map from output to source an image, so pixels are resampled once.

Without rotation and shear the map is a window: it is cut out while decoding and resized, which costs no more than a
plain resize. Its edges are rounded to whole source pixels. Otherwise the map goes through a general bilinear warp.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.decode import RATIOS, ratio_index, resize


def source_windows(
    maps: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, *, height: int, width: int, count: int
) -> dict[str, tf.Tensor]:
    """Turns maps into what has to be decoded.

    Args:
      maps: float32 `[N, 2, 3]`: output (x, y, 1) → source (x, y), both from -0.5 to 0.5 across the image.
      heights, widths: int `[N]`, of the sources, in pixels.
      height, width: of the output.
      count: how many of `RATIOS` can occur.

    Returns:
      int32 tensors: "ratio" `[N]`, index into `RATIOS`; "window" `[N, 4]`: top, left, height, width of the part to
      decode; "columns" `[N, 2]`: first and last + 1 of it to keep; "beyond" `[N, 4]`: rows above, below, columns left
      and right of the source that are to be mirrored; all in pixels after the reduction; "flip" `[N]`, 0 or 1.
    """
    sides = tf.stack([tf.cast(widths, tf.float32), tf.cast(heights, tf.float32)], axis=-1)  # x, y as in the maps
    # Source pixels that one output pixel steps over, along the output's x and y.
    steps = tf.sqrt(tf.reduce_sum((maps[:, :, :2] * sides[:, :, tf.newaxis]) ** 2, axis=1))
    ratio = ratio_index(tf.reduce_min(steps / tf.constant([width, height], tf.float32), axis=-1), count)
    divisor = tf.gather(tf.constant(RATIOS), ratio)[:, tf.newaxis]
    reduced = (tf.cast(sides, tf.int32) + divisor - 1) // divisor
    scale = tf.cast(reduced, tf.float32)
    extent = tf.stack([tf.abs(maps[:, 0, 0]), maps[:, 1, 1]], axis=-1)
    low = tf.cast(tf.floor((maps[:, :, 2] + 0.5 - extent / 2.0) * scale + 0.5), tf.int32)
    size = tf.maximum(tf.cast(tf.floor(extent * scale + 0.5), tf.int32), 1)
    first = tf.clip_by_value(low, 0, reduced - 1)
    last = tf.clip_by_value(low + size, first + 1, reduced)
    before, after = tf.maximum(first - low, 0), tf.maximum(low + size - last, 0)
    # libjpeg smooths colour over neighbouring columns: with one more on either side a part equals that of the whole.
    left = tf.maximum(first[:, 0] - 1, 0)
    right = tf.minimum(last[:, 0] + 1, reduced[:, 0])
    return {
        "ratio": ratio,
        "window": tf.stack([first[:, 1], left, last[:, 1] - first[:, 1], right - left], axis=-1),
        "columns": tf.stack([first[:, 0] - left, last[:, 0] - left], axis=-1),
        "beyond": tf.stack([before[:, 1], after[:, 1], before[:, 0], after[:, 0]], axis=-1),
        "flip": tf.cast(maps[:, 0, 0] < 0.0, tf.int32),
    }


def _mirror_beyond(image: tf.Tensor, before: tf.Tensor, after: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Continues an image over two edges with its mirror image (MirrorPad does the same 20 times slower)."""
    size = tf.shape(image)[axis]
    low, high = (image[:before], image[size - after :]) if axis == 0 else (image[:, :before], image[:, size - after :])
    return tf.concat([tf.reverse(low, [axis]), image, tf.reverse(high, [axis])], axis=axis)


def render_window(
    inside: tf.Tensor, beyond: tf.Tensor | None, flip: tf.Tensor, *, height: int, width: int
) -> tf.Tensor:
    """Turns the decoded part of one source into the output.

    Args:
      inside: uint8 `[h, w, 3]`, the "columns" of the "window" of `source_windows`.
      beyond: int32 `[4]` from `source_windows`, or None where no window reaches beyond its source.
      flip: int32 scalar, 0 or 1.

    Returns:
      float32 `[height, width, 3]`.
    """
    image = inside
    if beyond is not None:
        image = _mirror_beyond(image, beyond[0], beyond[1], axis=0)
        image = _mirror_beyond(image, beyond[2], beyond[3], axis=1)
    # Reversing along no axis returns the image itself.
    return resize(tf.reverse(image, tf.fill(flip[tf.newaxis], 1)), height=height, width=width)


def warp(image: tf.Tensor, affine: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Maps one image bilinearly; what lies beyond the border is its mirror image.

    Args:
      image: uint8 or float32 `[h, w, 3]`.
      affine: float32 `[2, 3]`: output (x, y, 1) → source (x, y), both from -0.5 to 0.5 across the image.

    Returns:
      float32 `[height, width, 3]`. With the identity map it equals a bilinear resize with half-pixel centres.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    source = tf.stack([shape[1], shape[0]])
    output = tf.constant([width, height], tf.float32)
    linear = affine[:, :2] * source[:, tf.newaxis] / output
    # Pixel p covers p..p+1, so its centre lies at (p + 0.5) / side - 0.5 across the image.
    centre = tf.linalg.matvec(linear, 0.5 - output / 2.0)
    offset = affine[:, 2] * source + centre + source / 2.0 - 0.5
    transform = tf.concat([linear[0], offset[:1], linear[1], offset[1:], [0.0, 0.0]], axis=0)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(warped[0], [height, width, 3])
