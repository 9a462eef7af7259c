"""Runs LiteRT models: pixels in, probabilities and features out. Free of TensorFlow."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from pipeline.images.remarks import heard

PROBABILITIES, FEATURES = "probabilities", "features"  # names of what a model answers
Ask = Callable[[np.ndarray], dict[str, np.ndarray]]  # float32 [B, H, W, 3] → the above, float32 [B, C] and [B, F]


def with_files(model: bytes, files: Mapping[str, str]) -> bytes:
    """Appends texts to a LiteRT model as a ZIP archive, which is where readers of its metadata look for labels."""
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of no date: equal models are equal files
    return content.getvalue()


def open_litert(model: str | bytes) -> Ask:
    """Opens a LiteRT model, on all processors that this process may use.

    Args:
      model: its file, or the content of one.

    Returns:
      a function from pixels, float32 0..255 [B, H, W, 3], to PROBABILITIES and, but for models of earlier versions,
      FEATURES. It is for one thread at a time, and fastest where B stays the same.
    """
    from ai_edge_litert.interpreter import Interpreter

    given = {"model_path": model} if isinstance(model, str) else {"model_content": model}
    interpreter = Interpreter(**given, num_threads=len(os.sched_getaffinity(0)))
    # XNNPACK says on stderr that it is there, once, beneath Python; what goes wrong is an exception.
    with heard():
        interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    found = interpreter.get_signature_runner().get_output_details()
    places = {name: found[name]["index"] for name in (PROBABILITIES, FEATURES) if name in found}
    if PROBABILITIES not in places:  # of an earlier version, which has one output
        (place,) = interpreter.get_output_details()
        places = {PROBABILITIES: place["index"]}
    shape: tuple[int, ...] = ()

    def ask(images: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal shape
        if images.shape != shape:
            interpreter.resize_tensor_input(entry["index"], images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        return {name: interpreter.get_tensor(place) for name, place in places.items()}

    return ask
