"""Builds EfficientNet B0…B7 (arXiv:1905.11946) and EfficientNet-Lite0…2 from one MBConv builder.

Layer names are those of `keras.applications.efficientnet`, so its weights load by name, with three deliberate
differences: `padding="same"` in place of ZeroPadding2D + "valid" (the same arithmetic); the ImageNet normalisation of
B0…B7 is a constant layer in place of an adapted one (whose statistics a checkpoint restores without effect); no
stochastic depth (it is off in fine-tuning, where the backbone is called with training=False).
"""

from __future__ import annotations

import dataclasses
import math

import keras
from keras import layers

from pipeline.preprocess import torch_scale_and_offset

_DEPTH_DIVISOR = 8


@dataclasses.dataclass(frozen=True)
class _Stage:
    kernel: int
    repeats: int
    filters: int
    expand: int
    stride: int


# Table 1 of the paper: B0. The others scale filters by `width` and repeats by `depth`.
_STAGES = (
    _Stage(3, 1, 16, 1, 1),
    _Stage(3, 2, 24, 6, 2),
    _Stage(5, 2, 40, 6, 2),
    _Stage(3, 3, 80, 6, 2),
    _Stage(5, 3, 112, 6, 1),
    _Stage(5, 4, 192, 6, 2),
    _Stage(3, 1, 320, 6, 1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Describes one member of the family.

    Attributes:
      width: factor on the filters of every stage.
      depth: factor on the repeats of every stage.
      lite: the Lite variant: ReLU6, no squeeze-and-excite, unscaled stem, head and first and last stages' repeats, and
        no normalisation inside (it wants (x - 127) / 128).
    """

    width: float
    depth: float
    lite: bool = False

    @property
    def features(self) -> int:
        return 1280 if self.lite else _round_filters(1280, self.width)

    def repeats(self, stage: int) -> int:
        fixed = self.lite and stage in (0, len(_STAGES) - 1)
        return _STAGES[stage].repeats if fixed else math.ceil(_STAGES[stage].repeats * self.depth)


CONFIGS = {
    "efficientnet_lite0": EfficientNetConfig(width=1.0, depth=1.0, lite=True),
    "efficientnet_lite1": EfficientNetConfig(width=1.0, depth=1.1, lite=True),
    "efficientnet_lite2": EfficientNetConfig(width=1.1, depth=1.2, lite=True),
    "efficientnet_b0": EfficientNetConfig(width=1.0, depth=1.0),
    "efficientnet_b1": EfficientNetConfig(width=1.0, depth=1.1),
    "efficientnet_b2": EfficientNetConfig(width=1.1, depth=1.2),
    "efficientnet_b3": EfficientNetConfig(width=1.2, depth=1.4),
    "efficientnet_b4": EfficientNetConfig(width=1.4, depth=1.8),
    "efficientnet_b5": EfficientNetConfig(width=1.6, depth=2.2),
    "efficientnet_b6": EfficientNetConfig(width=1.8, depth=2.6),
    "efficientnet_b7": EfficientNetConfig(width=2.0, depth=3.1),
}


def _round_filters(filters: float, width: float) -> int:
    filters *= width
    rounded = max(_DEPTH_DIVISOR, int(filters + _DEPTH_DIVISOR / 2) // _DEPTH_DIVISOR * _DEPTH_DIVISOR)
    return int(rounded + _DEPTH_DIVISOR if rounded < 0.9 * filters else rounded)


def _kernel_initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale=2.0, mode="fan_out", distribution="truncated_normal")


def _conv(filters: int, kernel: int, name: str, *, stride: int = 1) -> layers.Layer:
    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_kernel_initializer(),
        name=name,
    )


def _activation(config: EfficientNetConfig, name: str) -> layers.Layer:
    return layers.Activation("relu6" if config.lite else "swish", name=name)


def _squeeze_excite(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Scales the channels by gates computed from their means; `filters` is the width of the bottleneck."""
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_squeeze")(x)
    for width, activation, step in ((filters, "swish", "reduce"), (x.shape[-1], "sigmoid", "expand")):
        gate = layers.Conv2D(
            width, 1, activation=activation, kernel_initializer=_kernel_initializer(), name=f"{name}_se_{step}"
        )(gate)
    return layers.multiply([x, gate], name=f"{name}_se_excite")


def _block(
    x: keras.KerasTensor, config: EfficientNetConfig, stage: _Stage, *, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    """Adds an MBConv: expand 1×1, depthwise, squeeze-excite (not in Lite), project 1×1, add the input where it fits."""
    inputs, filters_in = x, x.shape[-1]
    if stage.expand != 1:
        x = _conv(filters_in * stage.expand, 1, f"{name}_expand_conv")(x)
        x = layers.BatchNormalization(name=f"{name}_expand_bn")(x)
        x = _activation(config, f"{name}_expand_activation")(x)
    x = layers.DepthwiseConv2D(
        stage.kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_kernel_initializer(),
        name=f"{name}_dwconv",
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = _activation(config, f"{name}_activation")(x)
    if not config.lite:
        x = _squeeze_excite(x, max(1, int(filters_in * 0.25)), name)
    x = _conv(filters, 1, f"{name}_project_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_project_bn")(x)
    if stride == 1 and filters == filters_in:
        x = layers.add([x, inputs], name=f"{name}_add")
    return x


def block_names(config: EfficientNetConfig) -> list[str]:
    """Names the blocks, in order: block1a, block2a, block2b, …"""
    return [f"block{s + 1}{chr(r + ord('a'))}" for s in range(len(_STAGES)) for r in range(config.repeats(s))]


def efficientnet_features(images: keras.KerasTensor, config: EfficientNetConfig) -> keras.KerasTensor:
    """Adds the network without its top to the graph.

    Args:
      images: [B, H, W, 3]; 0..255 for B0…B7, (x - 127) / 128 for Lite.
      config: a value of `CONFIGS`.

    Returns:
      [B, ceil(H / 32), ceil(W / 32), config.features].
    """
    x = images
    if not config.lite:
        scale, offset = torch_scale_and_offset()
        # float32 under every policy: bfloat16 holds no more than the integers of 0..255.
        x = layers.Rescaling(scale, offset, name="normalize", dtype="float32")(x)
    x = _conv(32 if config.lite else _round_filters(32, config.width), 3, "stem_conv", stride=2)(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = _activation(config, "stem_activation")(x)
    names = iter(block_names(config))
    for index, stage in enumerate(_STAGES):
        filters = _round_filters(stage.filters, config.width)
        for repeat in range(config.repeats(index)):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, config, stage, filters=filters, stride=stride, name=next(names))
    x = _conv(config.features, 1, "top_conv")(x)
    x = layers.BatchNormalization(name="top_bn")(x)
    return _activation(config, "top_activation")(x)
