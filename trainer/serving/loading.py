"""Loads an exported model by the fastest of its forms: LiteRT answers at once, TensorFlow takes seconds to import."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.command import DataError, UsageError
from pipeline.format import kinds, storage
from pipeline.format.local_copy import local_copy
from pipeline.format.sums import damage
from trainer.models.weights import LABELS_FILE
from trainer.serving.forms import PREPROCESS_FILE, TFLITE_FILE
from trainer.serving.litert import PROBABILITIES, Ask, open_litert
from trainer.serving.pixels import pixels
from trainer.serving.signature import Signature, find_saved_model, load_signature


def find_model(model: str) -> str:
    """Returns the file or folder that is loaded of an export: itself if it is a form, else the fastest form in it.

    Raises:
      UsageError: there is none.
      DataError: it is not what was exported, by the digests beside it.
    """
    found = _find(model)
    folder, name = os.path.split(found.rstrip("/"))
    if damaged := damage(folder, part=name):
        raise DataError(f"{folder} is damaged: {damaged[0]}; export the model again")
    return found


def _find(model: str) -> str:
    if os.path.splitext(model)[1] in _LOADERS:
        if not storage.exists(model):
            raise UsageError(f"{model}: no such file; {kinds.no_model(model)}")
        return model
    lite = storage.join(model, TFLITE_FILE)
    # An export of an earlier version does not say how it sees images.
    if storage.exists(lite) and storage.exists(storage.join(model, PREPROCESS_FILE)):
        return lite
    return find_saved_model(model)


def labels_of(found: str) -> list[str]:
    """Names the labels of what `find_model` has found, in order; UsageError where their file is not beside it."""
    return _beside(os.path.dirname(found.rstrip("/")), LABELS_FILE).splitlines()


def load_model(found: str) -> Signature:
    """Loads what `find_model` has found.

    Raises:
      UsageError: what belongs to it is not beside it, or a library is not installed.
    """
    loader = _LOADERS.get(os.path.splitext(found)[1])
    if loader is None:
        return load_signature(found)
    folder = os.path.dirname(found)
    labels = np.array([label.encode() for label in labels_of(found)])
    spec: Mapping[str, Any] = json.loads(_beside(folder, PREPROCESS_FILE))
    with local_copy(found) as file:
        ask = loader(file)

    def run(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        try:
            images = np.stack([pixels(one, spec) for one in encoded])
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError is Pillow's for some broken PNGs
            raise ValueError(f"Pillow cannot decode it: {error}") from error
        found = ask(images)
        return {"label": labels[found[PROBABILITIES].argmax(axis=1)], **found}

    return run


def _beside(folder: str, name: str) -> str:
    file = storage.join(folder, name)
    try:
        return storage.read_text(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file; it lies beside the model in an export, keep them together") from error


def _onnx(file: str) -> Ask:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{file}: onnxruntime is not installed; pip install 'tpu-retraining[onnx]'") from error
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: {PROBABILITIES: session.run([PROBABILITIES], {"image": images})[0]}


def _keras(file: str) -> Ask:
    import keras

    model = keras.models.load_model(file, compile=False)
    return lambda images: {PROBABILITIES: model.predict_on_batch(images)}  # a graph: ten times as fast as a call


_LOADERS: Mapping[str, Callable[[str], Ask]] = {".tflite": open_litert, ".onnx": _onnx, ".keras": _keras}
