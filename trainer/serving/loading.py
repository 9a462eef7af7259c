"""Loads an exported model by the fastest of its forms: LiteRT answers at once, TensorFlow takes seconds to import."""

from __future__ import annotations

import dataclasses
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
from trainer.serving.litert import PROBABILITIES, Ask, open_abreast, open_litert
from trainer.serving.signature import Signature, find_saved_model, load_signature


def find_model(model: str) -> str:
    """Returns the file or folder that is loaded of an export: itself if it is a form, else the fastest form in it.

    Raises:
      UsageError: there is none.
      DataError: it is not what was exported, by the digests beside it.
    """
    found = find_form(model)
    folder, name = os.path.split(found.rstrip("/"))
    if damaged := damage(folder, part=name):
        raise DataError(f"{folder} is damaged: {damaged[0]}; export the model again")
    return found


def find_form(model: str) -> str:
    """Returns what `find_model` does, and does not read it.

    Raises:
      UsageError: there is none.
    """
    if os.path.splitext(model)[1] in _LOADERS:
        if not storage.exists(model):
            raise UsageError(f"{model}: no such file; {kinds.no_model(model)}")
        return model
    lite = storage.join(model, TFLITE_FILE)
    # An export of an earlier version does not say how it sees images.
    if storage.exists(lite) and storage.exists(storage.join(model, PREPROCESS_FILE)):
        return lite
    return find_saved_model(model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Holds a model and how it sees images, so that others decode them: guarded, several at a time, ahead.

    Attributes:
      labels: names, in the order of the probabilities.
      spec: how it sees images, see `model_pixels.pixels`; None if it decodes them by itself.
      ask: answers for B images, pixels float32 [H, W, 3] or, without `spec`, encoded: PROBABILITIES, float32 [B, C],
        and what else the form gives. ValueError where it cannot decode one of them.
      abreast: how many threads may call `ask` at a time.
    """

    labels: Sequence[str]
    spec: Mapping[str, Any] | None
    ask: Callable[[Sequence[Any]], dict[str, np.ndarray]]
    abreast: int = 1


def labels_of(found: str) -> list[str]:
    """Names the labels of what `find_model` has found, in order; UsageError where their file is not beside it."""
    return _beside(os.path.dirname(found.rstrip("/")), LABELS_FILE).splitlines()


def load_parts(found: str, *, abreast: int = 1) -> Parts:
    """Loads what `find_model` has found.

    Args:
      found: the file or folder.
      abreast: batches that it is asked about at a time, if it is a LiteRT model; the others use all processors for one.

    Raises:
      UsageError: what belongs to it is not beside it, or a library is not installed.
    """
    loader = _LOADERS.get(os.path.splitext(found)[1])
    if loader is None:
        return Parts(labels=labels_of(found), spec=None, ask=load_signature(found))
    folder = os.path.dirname(found)
    spec: Mapping[str, Any] = json.loads(_beside(folder, PREPROCESS_FILE))
    abreast = abreast if loader is open_litert else 1
    with local_copy(found) as file:
        ask = loader(file) if abreast == 1 else open_abreast(file, abreast)
    return Parts(labels=labels_of(found), spec=spec, ask=ask, abreast=abreast)


def load_model(found: str) -> Signature:
    """Loads what `find_model` has found.

    Raises:
      UsageError: what belongs to it is not beside it, or a library is not installed.
    """
    if os.path.splitext(found)[1] not in _LOADERS:
        return load_signature(found)
    from pipeline.images.model_pixels import pixels  # Pillow, which servers leave to their decoders

    parts = load_parts(found)
    labels = np.array([label.encode() for label in parts.labels])
    assert parts.spec is not None
    spec = parts.spec

    def see(encoded: bytes) -> np.ndarray:
        try:
            return pixels(encoded, spec)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError is Pillow's for some broken PNGs
            raise ValueError(f"Pillow cannot decode it: {error}") from error

    def run(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        answers = parts.ask([see(one) for one in encoded])
        return {"label": labels[answers[PROBABILITIES].argmax(axis=1)], **answers}

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
    return lambda images: {PROBABILITIES: session.run([PROBABILITIES], {"image": np.asarray(images)})[0]}


def _keras(file: str) -> Ask:
    import keras

    model = keras.models.load_model(file, compile=False)
    model.jit_compile = False  # of which tensorflow-tpu has none for CPUs, and a few images are not worth a compile
    # A graph: ten times as fast as a call.
    return lambda images: {PROBABILITIES: model.predict_on_batch(np.asarray(images))}


_LOADERS: Mapping[str, Callable[[str], Ask]] = {".tflite": open_litert, ".onnx": _onnx, ".keras": _keras}
