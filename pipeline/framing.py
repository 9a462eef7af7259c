"""Computes where in an image the box lies that becomes the output, see `pipeline.view.View`."""

from __future__ import annotations

import tensorflow as tf

from pipeline.view import View


def factor(view: View, shape: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Counts source pixels per output pixel, float32 `[...]`, of the axis that has fewer.

    Args:
      shape: int `[..., 2]`, heights and widths of the sources.
      height, width: of the output.
    """
    sides = tf.cast(shape, tf.float32) / tf.constant([height, width], tf.float32)
    if view.pads:
        return tf.reduce_max(sides, axis=-1)
    return tf.reduce_min(sides, axis=-1) * (view.eval_centre or 1.0)


def sides(view: View, shape: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Returns the sides of the box before they are rounded to pixels, float32 `[..., 2]`; arguments as `factor`."""
    if view.is_whole:
        return tf.cast(shape, tf.float32)
    pixels = factor(view, shape, height=height, width=width)[..., tf.newaxis]
    return tf.constant([height, width], tf.float32) * pixels


def box(view: View, shape: tf.Tensor, *, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where the box begins, float32 `[..., 2]`, and its size, int32 `[..., 2]`, in pixels of the source.

    It begins at a whole pixel. One that pads begins before the image, below 0 and maybe at half a pixel, and ends
    as far behind it.

    Args:
      shape: int32 `[..., 2]`, heights and widths of the sources.
      height, width: of the output.
    """
    if view.is_whole:
        return tf.zeros_like(shape, tf.float32), shape
    size = tf.cast(tf.round(sides(view, shape, height=height, width=width)), tf.int32)
    if view.pads:
        size = tf.maximum(size, shape)
        return tf.cast(shape - size, tf.float32) / 2.0, size
    size = tf.clip_by_value(size, 1, shape)
    return tf.cast((shape - size) // 2, tf.float32), size


def covered(view: View, aspects: tf.Tensor, *, output_aspect: float) -> tf.Tensor:
    """Returns which part of the view's width and height the image takes, float32 `[N, 2]`: all, unless it pads.

    Args:
      aspects: float32 `[N]`, width / height of the sources; output_aspect: that of the output.
    """
    relative = tf.stack([aspects / output_aspect, output_aspect / aspects], axis=-1)
    return tf.minimum(relative, 1.0) if view.pads else tf.ones_like(relative)


def placed(before: tf.Tensor, size: tf.Tensor, after: tf.Tensor, *, output: int) -> tf.Tensor:
    """Finds the output pixels that an image takes of an axis which reaches beyond it; one of them at least.

    Args:
      before, after: float32 `[...]`, source pixels of the axis before and after the image: whole ones and halves.
      size: int32 `[...]`, source pixels of the axis.
      output: output pixels of the axis.

    Returns:
      int32 `[..., 2]`: first and last + 1. Reversing the axis reverses them.
    """

    def pixels(source: tf.Tensor) -> tf.Tensor:
        return (tf.cast(2.0 * source, tf.int32) * output + size) // (2 * size)  # rounded

    first = tf.minimum(pixels(before), output - 1)
    return tf.stack([first, tf.clip_by_value(output - pixels(after), first + 1, output)], axis=-1)
