"""Builds the layers of every backbone. `pretrained` loads their weights."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from pipeline.own_code import is_own
from trainer.models import efficientnet, resnet
from trainer.models.backbones import backbone_info, check_size
from trainer.models.own_backbone import own_feature_map

APPLICATIONS: dict[str, Callable[..., keras.Model]] = {
    "vgg16": keras.applications.VGG16,
    "resnet50": keras.applications.ResNet50,
    **{f"efficientnet_b{i}": getattr(keras.applications, f"EfficientNetB{i}") for i in range(8)},
}


def _cifar10_cnn_features(x: keras.KerasTensor) -> keras.KerasTensor:
    """Adds conv-conv-pool twice: [B, H, W, 3] in 0..1 → [B, H // 4, W // 4, 64]."""
    for block in (1, 2):
        for conv in (1, 2):
            name = f"block{block}_conv{conv}"
            x = layers.Conv2D(64, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return x


def feature_map(name: str, images: keras.KerasTensor, *, resize_to: int | None) -> keras.KerasTensor:
    """Adds the backbone, with random weights, to the graph.

    Args:
      name: a key of `BACKBONES`, or a user's function.
      images: [B, H, W, 3], preprocessed.
      resize_to: enlarge to a square of this many pixels first (bilinear), e.g. 32 → 224; None leaves the size.

    Returns:
      [B, h, w, features].
    """
    info = backbone_info(name)
    x = images
    if resize_to is not None:
        # Not layers.Resizing: its call() defaults to training=True, which Keras 3.15 hands on to every layer behind it
        # wherever the model is called without `training`, so that batch norm would use the batch's statistics.
        x = keras.ops.image.resize(x, (resize_to, resize_to), interpolation="bilinear")
    check_size(info.name, *x.shape[1:3])
    if is_own(name):
        return own_feature_map(name, x)
    if name in efficientnet.CONFIGS:
        return efficientnet.efficientnet_features(x, efficientnet.CONFIGS[name])
    if name == "resnet34":
        return resnet.resnet34_features(x)
    if name == "cifar10_cnn":
        return _cifar10_cnn_features(x)
    return APPLICATIONS[name](include_top=False, weights=None, input_tensor=x).output
