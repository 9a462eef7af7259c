"""Maps pixels to the range that each backbone was trained on: last, so that all that comes before works in 0..255."""

from __future__ import annotations

import tensorflow as tf

from pipeline.command import UsageError, nearest

# name → what the backbone expects. "tf", "caffe" are Keras's names (keras.applications.imagenet_utils).
PREPROCESS = {
    "identity": "RGB 0..255 (EfficientNet: its own first layer rescales)",
    "tf": "RGB -1..1",
    "caffe": "BGR minus the ImageNet mean (VGG16, ResNet50)",
    "lite": "RGB (x - 127) / 128 (EfficientNet-Lite)",
    "unit": "RGB 0..1",
}

IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)


def check_mode(mode: str) -> None:
    """Raises UsageError naming the modes if `mode` is none of them."""
    if mode not in PREPROCESS:
        raise UsageError(f'no preprocessing "{mode}"; known: {", ".join(PREPROCESS)}.{nearest(mode, list(PREPROCESS))}')


def value_range(mode: str) -> tuple[float, float]:
    """Returns the lowest and highest value that `preprocess` can return for pixels 0..255."""
    check_mode(mode)
    return {
        "identity": (0.0, 255.0),
        "tf": (-1.0, 1.0),
        "caffe": (-IMAGENET_MEAN_BGR[2], 255.0 - IMAGENET_MEAN_BGR[0]),
        "lite": (-127.0 / 128.0, 1.0),
        "unit": (0.0, 1.0),
    }[mode]


def preprocess(images: tf.Tensor, mode: str) -> tf.Tensor:
    """Maps pixels to the range that a backbone expects.

    Args:
      images: float32 or uint8 `[..., H, W, 3]`, RGB, 0..255.
      mode: a key of `PREPROCESS`.

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
