"""Reads the weights of an exported classifier back: of a run's export, or of a model of a registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.local_copy import local_copy
from trainer.models.weights import KERAS_FILE, LABELS_FILE, find_export


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """Holds the weights of an exported classifier.

    Attributes:
      backbone: in the order of Keras' `get_weights`.
      head: of each layer of the head that has some, by its name.
      labels: names, in the order of the logits.
    """

    backbone: list[np.ndarray]
    head: dict[str, list[np.ndarray]]
    labels: list[str]


def read_model(file: str) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Reads the weights of backbone and head (by layer) out of a `model.keras` of ours.

    Raises:
      ValueError: it is damaged, or no model of ours.
    """
    try:
        with local_copy(file) as path:
            model = keras.models.load_model(path, compile=False)
        backbone, head = model.get_layer("backbone"), model.get_layer("head")
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no {KERAS_FILE} that trainer.export wrote ({error})") from error
    return backbone.get_weights(), {layer.name: layer.get_weights() for layer in head.layers if layer.weights}


def read_export(source: str) -> Exported:
    """Reads the export that `source` means, see `find_export`; UsageError if there is none or it is damaged."""
    folder = find_export(source)
    try:
        backbone, head = read_model(storage.join(folder, KERAS_FILE))
    except ValueError as error:
        raise UsageError(f"init={source}: {error}") from error
    labels = storage.read_text(storage.join(folder, LABELS_FILE)).splitlines()
    return Exported(backbone=backbone, head=head, labels=labels)


def set_backbone(backbone: keras.Model, arrays: Sequence[np.ndarray]) -> None:
    """Gives a backbone the weights of another; ValueError if that one is of another kind."""
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in backbone.weights]:
        raise ValueError("its backbone is another one")
    backbone.set_weights(list(arrays))
