"""Maps pixels to the range that each backbone was trained on: last, so that all that comes before works in 0..255."""

from __future__ import annotations

import tensorflow as tf

from pipeline.modes import check_mode

IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB 0..1, as is the deviation
IMAGENET_STDDEV = (0.229, 0.224, 0.225)


def value_range(mode: str) -> tuple[float, float]:
    """Returns the lowest and highest value that `preprocess` can return for pixels 0..255."""
    check_mode(mode)
    return {
        "identity": (0.0, 255.0),
        "tf": (-1.0, 1.0),
        "caffe": (-IMAGENET_MEAN_BGR[2], 255.0 - IMAGENET_MEAN_BGR[0]),
        "torch": (-IMAGENET_MEAN[0] / IMAGENET_STDDEV[0], (1.0 - IMAGENET_MEAN[2]) / IMAGENET_STDDEV[2]),
        "lite": (-127.0 / 128.0, 1.0),
        "unit": (0.0, 1.0),
    }[mode]


def torch_scale_and_offset() -> tuple[list[float], list[float]]:
    """Returns what mode "torch" multiplies pixels 0..255 by and then adds, for each channel."""
    scale = [1.0 / (255.0 * deviation) for deviation in IMAGENET_STDDEV]
    return scale, [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STDDEV, strict=True)]


def preprocess(images: tf.Tensor, mode: str) -> tf.Tensor:
    """Maps pixels to the range that a backbone expects.

    Args:
      images: float32 or uint8 `[..., H, W, 3]`, RGB, 0..255.
      mode: a key of `modes.PREPROCESS`.

    Returns:
      float32, same shape.

    Raises:
      UsageError: unknown mode.
    """
    check_mode(mode)
    images = tf.cast(images, tf.float32)
    if mode == "tf":
        return images * (1.0 / 127.5) - 1.0
    if mode == "caffe":
        return images[..., ::-1] - tf.constant(IMAGENET_MEAN_BGR)
    if mode == "torch":
        scale, offset = torch_scale_and_offset()
        return images * tf.constant(scale) + tf.constant(offset)
    if mode == "lite":
        return (images - 127.0) * (1.0 / 128.0)
    if mode == "unit":
        return images * (1.0 / 255.0)
    return images


def assert_range(images: tf.Tensor, mode: str) -> tf.Operation:
    """Makes an op that fails unless all values are finite and within `value_range(mode)`, within rounding."""
    low, high = value_range(mode)
    slack = (high - low) * 1e-3
    # NaN fails every comparison.
    within = tf.reduce_all((images >= low - slack) & (images <= high + slack))
    found = [f'images for preprocess="{mode}" must lie in {low:g}..{high:g}; lowest and highest are']
    return tf.debugging.Assert(within, [*found, tf.reduce_min(images), tf.reduce_max(images)])
