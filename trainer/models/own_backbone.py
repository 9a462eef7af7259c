"""Builds the layers of a backbone that a user has written.

A backbone is a function of images that returns their feature map. Its arguments' defaults say what it wants:

    def small(images, *, image_size=64, preprocess="unit"):
        # images: a Keras tensor [B, H, W, 3], preprocessed → [B, h, w, channels]
        return keras.layers.Conv2D(32, 3, strides=4, activation="relu")(images)

It may as well return a Keras model: one that it has made from `images` (`input_tensor=images`), or one with an input of
its own, whose layers are then made anew for images of the recipe's size, with its weights. Weights are what the
function has left in its layers: random, or loaded by itself.
"""

from __future__ import annotations

import keras

from pipeline.own_code import find
from trainer.models.keras_private import numbered_from_zero


def own_feature_map(name: str, images: keras.KerasTensor) -> keras.KerasTensor:
    """Adds a user's backbone to the graph.

    Args:
      name: `FILE.py:function` or `MODULE:function`.
      images: [B, H, W, 3], preprocessed.

    Returns:
      [B, h, w, channels].

    Raises:
      UsageError: there is no such function, it raises something, or returns no feature map made from `images`.
    """
    code = find(name)
    with numbered_from_zero():  # the variables' paths, by which a checkpoint knows them, are the same in every process
        found = code.call(images)
        if isinstance(found, keras.Model):
            with code.blamed():
                found = _applied(found, images)
    if not isinstance(found, keras.KerasTensor) or len(found.shape) != 4 or None in found.shape[1:]:
        shape = f" of the shape {tuple(found.shape)}" if isinstance(found, keras.KerasTensor) else ""
        raise code.refuse(
            f"returns {type(found).__name__}{shape}, not a feature map [B, h, w, channels] made from its images"
        )
    try:
        keras.Model(images, found)
    except ValueError as error:
        raise code.refuse("its feature map is not made from the images that it is given") from error
    return found


def _applied(model: keras.Model, images: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a model's output for `images`."""
    if isinstance(model, keras.Sequential) and not model.built:
        for layer in model.layers:
            images = layer(images)
        return images
    if not hasattr(model, "inputs"):
        raise ValueError("a model of a class of its own has no layers to be seen: return model(images) in its place")
    if any(entry is images for entry in model.inputs):
        return model.output
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"its model has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one of each")
    copy = keras.models.clone_model(keras.Model(model.inputs[0], model.outputs[0]), input_tensors=images)
    copy.set_weights(model.get_weights())
    return copy.output
