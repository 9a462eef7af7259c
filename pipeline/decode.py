"""Encoded bytes → pixels. `decode_and_resize` is the evaluation path: of the trainer and inside the export alike."""

from __future__ import annotations

import tensorflow as tf


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one image to uint8 `[h, w, 3]`; a grey one is repeated over the channels.

    Args:
      encoded: string scalar: a JPEG or PNG.
    """
    return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])


def decode_and_resize(encoded: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Decodes one image and resizes it (bilinear, half-pixel centres, aspect not kept).

    Args:
      encoded: string scalar: a JPEG or PNG.

    Returns:
      float32 `[height, width, 3]`, 0..255.
    """
    return resize(decode(encoded), height=height, width=width)


def resize(image: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """float32 `[height, width, 3]`, bilinear with half-pixel centres."""
    return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=[height, width], half_pixel_centers=True)[0]
