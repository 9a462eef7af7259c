"""Makes an ONNX model of an exported Keras model: pixels in, probabilities out, for any number of images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping

import keras
import numpy as np
import onnx
import onnxruntime

from pipeline.command import CommandError
from trainer.serving.forms import ONNX_FILE, TOLERANCE

INPUT, OUTPUT = "image", "probabilities"
_IMAGES = 3


def to_onnx(model: keras.Model, notes: Mapping[str, str]) -> bytes:
    """Converts a model, and compares its answers to some noise with the model's own.

    Of the Keras model and not of the SavedModel, whose strings and decoding ONNX does not have.

    Args:
      model: float32 0..255 [B, H, W, 3] → probabilities [B, C].
      notes: go into the file's metadata, key by key.

    Raises:
      CommandError: it answers otherwise.
    """
    shape = (_IMAGES, *model.input.shape[1:])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    expected = np.asarray(model(images, training=False))  # Keras exports only what has been called
    with tempfile.TemporaryDirectory() as directory:
        file = os.path.join(directory, ONNX_FILE)
        model.export(file, format="onnx", verbose=False)
        content = _finished(onnx.load(file), notes)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: images})
    error = np.abs(found - expected).max()
    if not error <= TOLERANCE:  # so put that nan fails
        raise CommandError(f"{ONNX_FILE} differs from the model by {error:g} in a probability; onnx {onnx.__version__}")
    return content


def _finished(model: onnx.ModelProto, notes: Mapping[str, str]) -> bytes:
    """Gives input, output and the number of images the names that people look for; adds the notes."""
    (entry,), (result,) = model.graph.input, model.graph.output
    old = {entry.name: INPUT, result.name: OUTPUT}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = old.get(name, name)
    for value, name in ((entry, INPUT), (result, OUTPUT)):
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "images"
    onnx.helper.set_model_props(model, dict(notes))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
