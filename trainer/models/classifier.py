"""Builds a classifier: a backbone (images → feature vector) and a head (feature vector → logits)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Iterator

import keras
from keras import layers

from pipeline.command import UsageError
from trainer.models import feature_maps, pretrained
from trainer.models.backbones import backbone_info
from trainer.models.head import HeadConfig
from trainer.models.keras_private import name_seed_state
from trainer.models.twin import lean_twin

LOGITS = "logits"
_PLAIN_HEAD = HeadConfig()


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Holds two Keras models. Their variables' paths begin with "backbone/" or "head/", the same in every process.

    Attributes:
      backbone: [B, H, W, 3] float32, preprocessed → [B, F] float32: the pooling (which has no weights) is its last
        layer, so that its output is small enough to be cached while it is frozen.
      head: [B, F] → logits [B, classes], float32 under every dtype policy.
    """

    backbone: keras.Model
    head: keras.Model

    @functools.cached_property
    def lean_backbone(self) -> keras.Model:
        """Returns the backbone for `training=False`, cheaper (`lean_twin`). One is enough: it shares the variables.

        Not to be read for the first time inside a traced function: the layers would be made in its graph.
        """
        return lean_twin(self.backbone)

    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits by `factor`, for good: in the weights of the layer that computes them."""
        for variable in self.head.get_layer(LOGITS).weights:
            variable.assign(variable * factor)


@contextlib.contextmanager
def _scope(name: str, seed: int) -> Iterator[None]:
    """Puts variables made inside under the path `name`, with initial values that depend on `name` and `seed` alone."""
    state = random.getstate()
    random.seed(f"{name} {seed}")  # where Keras draws the seeds of initializers that were given none
    try:
        with keras.name_scope(name):
            yield
    finally:
        random.setstate(state)


def _build_backbone(name: str, height: int, width: int, resize_to: int | None, pooling: str) -> keras.Model:
    images = keras.Input((height, width, 3), dtype="float32", name="image")
    x = feature_maps.feature_map(name, images, resize_to=resize_to)
    if pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="pool", dtype="float32")(x)
    else:
        x = layers.Flatten(name="flatten", dtype="float32")(x)
    return keras.Model(images, x, name="backbone")


def _build_head(features: int, num_classes: int, config: HeadConfig) -> keras.Model:
    inputs = x = keras.Input((features,), dtype="float32", name="features")
    if config.hidden:
        x = layers.Dense(config.hidden, activation="relu", kernel_initializer="he_normal", name="hidden")(x)
    if config.dropout:
        dropout = layers.Dropout(config.dropout, seed=random.randrange(2**31), name="dropout")
        # Keras numbers seed generators through the process, so this path would depend on what was built before.
        name_seed_state(dropout, "head/dropout/seed_generator_state")
        x = dropout(x)
    logits = layers.Dense(num_classes, dtype="float32", name=LOGITS)(x)
    return keras.Model(inputs, logits, name="head")


def build_classifier(
    *,
    backbone: str,
    weights: str,
    num_classes: int,
    height: int,
    width: int,
    resize_to: int | None = None,
    head: HeadConfig = _PLAIN_HEAD,
    seed: int,
) -> Classifier:
    """Builds a classifier under Keras' current dtype policy and the current `tf.distribute` scope.

    Args:
      backbone: a key of `BACKBONES`.
      weights: "imagenet", "none" or a path; see `pretrained.load_weights`.
      num_classes: number of logits.
      height: pixels of the images that come in.
      width: pixels of the images that come in.
      resize_to: enlarge to this square inside the model.
      head: see `HeadConfig`.
      seed: the random initial values of the head (and of a backbone without weights) are a function of it.

    Raises:
      UsageError: an unknown name, an image too small, or weights that are absent or do not fit.
    """
    backbone_info(backbone)
    if num_classes < 1:
        raise UsageError(f"num_classes must be 1 or more, got {num_classes}")
    if resize_to is not None and resize_to < 1:
        raise UsageError(f"resize_to is a number of pixels, or null to leave the size; got {resize_to}")
    with _scope("backbone", seed):
        backbone_model = _build_backbone(backbone, height, width, resize_to, head.pooling)
    with _scope("head", seed):
        head_model = _build_head(backbone_model.output.shape[-1], num_classes, head)
    pretrained.load_weights(backbone_model, backbone, weights)
    return Classifier(backbone_model, head_model)
