"""Builds ResNet-34 (arXiv 1512.03385) as torchvision has it, so that its published weights mean what they meant there.

Padding is explicit where a stride of 2 would make "same" another one. In training, the moving variance takes in the
batch's biased variance, as everywhere in Keras, where PyTorch's takes in the unbiased one: n / (n - 1) of it, n the
batch's positions, which at 7 × 7 and 32 images is 0.06 % more.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
from keras import layers

_BLOCKS = (3, 4, 6, 3)  # of each stage
_STEM = 64  # filters, also of the first stage; every further one has twice as many and halves the sides


def _conv(x: keras.KerasTensor, filters: int, kernel: int, name: str, *, stride: int = 1) -> keras.KerasTensor:
    """Adds a convolution padded by half its kernel on every side."""
    if kernel > 1 and stride > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal"),
        name=name,
    )(x)


def _batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _block(x: keras.KerasTensor, filters: int, name: str, *, stride: int) -> keras.KerasTensor:
    """Adds two 3×3 convolutions around which the input goes, by a 1×1 convolution where the sizes differ."""
    inputs = x
    x = _batch_norm(_conv(x, filters, 3, f"{name}_conv1", stride=stride), f"{name}_bn1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _batch_norm(_conv(x, filters, 3, f"{name}_conv2"), f"{name}_bn2")
    if stride > 1:
        inputs = _conv(inputs, filters, 1, f"{name}_downsample_conv", stride=stride)
        inputs = _batch_norm(inputs, f"{name}_downsample_bn")
    return layers.ReLU(name=f"{name}_relu2")(layers.add([x, inputs], name=f"{name}_add"))


def resnet34_features(images: keras.KerasTensor) -> keras.KerasTensor:
    """Adds the network without its top to the graph.

    Args:
      images: [B, H, W, 3], preprocessed by mode "torch".

    Returns:
      [B, ceil(H / 32), ceil(W / 32), 512].
    """
    x = _batch_norm(_conv(images, _STEM, 7, "conv1", stride=2), "bn1")
    x = layers.ReLU(name="relu")(x)
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # no value is below 0 here
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _block(x, _STEM << stage, f"layer{stage + 1}_{block}", stride=stride)
    return x


def torch_names() -> Iterator[tuple[str, str]]:
    """Yields (Keras layer, torchvision's module) for each convolution and batch norm."""
    yield "conv1", "conv1"
    yield "bn1", "bn1"
    for stage, blocks in enumerate(_BLOCKS, start=1):
        for block in range(blocks):
            for part in ("conv1", "bn1", "conv2", "bn2"):
                yield f"layer{stage}_{block}_{part}", f"layer{stage}.{block}.{part}"
        if stage > 1:
            yield f"layer{stage}_0_downsample_conv", f"layer{stage}.0.downsample.0"
            yield f"layer{stage}_0_downsample_bn", f"layer{stage}.0.downsample.1"
