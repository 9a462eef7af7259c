"""Runs LiteRT models: pixels in, probabilities and features out. Free of TensorFlow."""

from __future__ import annotations

import io
import math
import os
import queue
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.images.remarks import heard

# Of images that are computed together: what the layers of more make no longer fits into a processor's cache.
_PIXELS_TOGETHER = 2 * 224 * 224
PROBABILITIES, FEATURES = "probabilities", "features"  # names of what a model answers
# B images, float32 [H, W, 3] each, or one array of them → the above, float32 [B, C] and [B, F]
Ask = Callable[[Sequence[np.ndarray] | np.ndarray], dict[str, np.ndarray]]


def with_files(model: bytes, files: Mapping[str, str]) -> bytes:
    """Appends texts to a LiteRT model as a ZIP archive, which is where readers of its metadata look for labels."""
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of no date: equal models are equal files
    return content.getvalue()


def open_abreast(model: str, count: int) -> Ask:
    """Opens a LiteRT model as often as given, on a processor each.

    Returns:
      a function as `open_litert` returns it, but for so many threads at a time. Several batches on a processor each are
      answered sooner than one after the other on all of them, which wait for each other at every layer.
    """
    idle: queue.SimpleQueue[Ask] = queue.SimpleQueue()
    for _ in range(count):
        idle.put(open_litert(model, threads=1))

    def ask(images: Sequence[np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        one = idle.get()
        try:
            return one(images)
        finally:
            idle.put(one)

    return ask


def open_litert(model: str | bytes, *, threads: int | None = None) -> Ask:
    """Opens a LiteRT model.

    Args:
      model: its file, or the content of one.
      threads: that it computes with; None for one on each processor that this process may use.

    Returns:
      a function from pixels, 0 to 255, to PROBABILITIES and, but for models of earlier versions, FEATURES. It is for
      one thread at a time, and fastest where B stays the same, a power of two.
    """
    from ai_edge_litert.interpreter import Interpreter

    given = {"model_path": model} if isinstance(model, str) else {"model_content": model}
    interpreter = Interpreter(**given, num_threads=threads or len(os.sched_getaffinity(0)))
    # XNNPACK says on stderr that it is there, once, beneath Python; what goes wrong is an exception.
    with heard():
        interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    put = interpreter.tensor(entry["index"])
    found = interpreter.get_signature_runner().get_output_details()
    places = {name: found[name]["index"] for name in (PROBABILITIES, FEATURES) if name in found}
    if PROBABILITIES not in places:  # of an earlier version, which has one output
        (place,) = interpreter.get_output_details()
        places = {PROBABILITIES: place["index"]}
    shape: tuple[int, ...] = ()

    def ask(images: Sequence[np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        most = max(1, _PIXELS_TOGETHER // math.prod(images[0].shape[:2]))
        together = 1 << (most.bit_length() - 1)
        found = [compute(images[at : at + together]) for at in range(0, len(images), together)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def compute(images: Sequence[np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        nonlocal shape
        if (len(images), *images[0].shape) != shape:
            shape = (len(images), *images[0].shape)
            interpreter.resize_tensor_input(entry["index"], shape)
            interpreter.allocate_tensors()
        np.stack([*images], out=put())  # nobody may keep what `put` returns, so it has no name
        interpreter.invoke()
        return {name: interpreter.get_tensor(place) for name, place in places.items()}

    return ask
