"""A model's twin to train, evaluate and serve with: the same function of the same variables, cheaper to compute."""

from __future__ import annotations

import keras

from trainer.models.folding import folded_layers
from trainer.models.resizing import products_for_resizing


def lean_twin(model: keras.Model) -> keras.Model:
    """`model`, for `training=False`, without batch normalisations that can be folded and without XLA's resizing.

    A SavedModel may be traced from it; a `.keras` file must hold `model` itself, which has Keras' own layers only.

    Args:
      model: functional; its layers are shared, not copied.
    """
    replaced = {**folded_layers(model), **products_for_resizing(model)}
    return keras.models.clone_model(model, clone_function=lambda layer: replaced.get(layer.name, layer))
