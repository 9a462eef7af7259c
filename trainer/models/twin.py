"""Makes a model's twin to train, evaluate and serve with: the same function and variables, cheaper to compute."""

from __future__ import annotations

import keras

from trainer.models.folding import folded_layers
from trainer.models.resizing import products_for_resizing


def lean_twin(model: keras.Model) -> keras.Model:
    """Returns `model`, for `training=False`, with batch normalisations folded where possible, without XLA's resizing.

    A SavedModel may be traced from it; a `.keras` file must hold `model` itself, which has Keras' own layers only.

    Args:
      model: functional; its layers are shared, not copied.
    """
    replaced = {**folded_layers(model), **products_for_resizing(model)}
    return keras.models.clone_model(model, clone_function=lambda layer: replaced.get(layer.name, layer))
