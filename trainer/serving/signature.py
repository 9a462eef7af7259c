"""Loads the serving signature of an exported model: encoded images in, labels and probabilities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from trainer.models.weights import LABELS_FILE
from trainer.serving.forms import SAVED_MODEL

SIGNATURE = "serving_default"
INPUT = "image_bytes"  # TensorFlow Serving's JSON knows by the suffix _bytes that base64 is meant

# Encoded images → {"label": [B] of bytes, "probabilities": float32 [B, C]}, or ValueError. LiteRT adds "features",
# float32 [B, F]: what the head is given.
Signature = Callable[[Sequence[bytes]], dict[str, np.ndarray]]


def find_saved_model(model: storage.Path) -> str:
    """Returns the SavedModel directory of an export directory, or of itself. Raises UsageError if there is none."""
    given = os.fspath(model)
    for directory in (given, storage.join(given, SAVED_MODEL)):
        if storage.exists(storage.join(directory, "saved_model.pb")):
            return directory
    raise UsageError(f"{given}: no exported model there; {kinds.no_model(given)}")


def read_labels(model: storage.Path) -> list[str]:
    """Reads the names of an exported model's labels, in their order. Raises UsageError where they are not beside it."""
    directory = os.path.dirname(find_saved_model(model).rstrip("/"))
    file = storage.join(directory, LABELS_FILE)
    try:
        text = storage.read_text(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file; give the export directory, which holds it beside the model") from error
    return text.removesuffix("\n").split("\n")


def load_signature(model: storage.Path) -> Signature:
    """Loads the serving signature of an export directory, or of a SavedModel directory.

    Raises:
      UsageError: there is none.
    """
    directory = find_saved_model(model)
    import tensorflow as tf  # takes seconds: --help and mistakes in the arguments should not

    loaded = tf.saved_model.load(directory)
    if SIGNATURE not in loaded.signatures or INPUT not in loaded.signatures[SIGNATURE].structured_input_signature[1]:
        raise UsageError(f"{directory}: not exported by trainer.export (no signature {SIGNATURE} of {INPUT})")

    def run(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        try:
            result = loaded.signatures[SIGNATURE](**{INPUT: tf.constant(encoded)})
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"TensorFlow cannot decode it: {error.message.splitlines()[0]}") from error
        return {name: tensor.numpy() for name, tensor in result.items()}

    return run
