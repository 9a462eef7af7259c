"""Asks the model beside this file about images: needs nothing of the project that trained it.

python ask.py saved_model PHOTO.jpg …    # or model.keras, model.tflite, model_int8.tflite, model.onnx
"""

from __future__ import annotations

import json
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def load(form: str) -> Callable[[bytes], np.ndarray]:
    """Returns a function from the bytes of one image to its probabilities, float32 [C]."""
    file = str(HERE / form)
    if form == "saved_model":
        import tensorflow as tf

        serve = tf.saved_model.load(file).signatures["serving_default"]
        return lambda data: serve(image_bytes=tf.constant([data]))["probabilities"].numpy()[0]
    sys.path.insert(0, str(HERE))
    from pixels import pixels  # of an export: it lies beside this file there

    spec = json.loads((HERE / "preprocess.json").read_text())
    if form == "model.keras":
        import keras

        model = keras.models.load_model(file, compile=False)
        return lambda data: np.asarray(model(pixels(data, spec)[np.newaxis], training=False))[0]
    if form == "model.onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda data: session.run(["probabilities"], {"image": pixels(data, spec)[np.newaxis]})[0][0]
    interpreter = _interpreter(file)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()  # it also answers with the model's features
    return lambda data: run(image=pixels(data, spec)[np.newaxis])["probabilities"][0]


def _interpreter(file: str) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TensorFlow's own copy will go
        return Interpreter(model_path=file)


def main() -> None:
    form, *files = sys.argv[1:]
    labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
    ask = load(form)
    for file in files:
        probabilities = ask(pathlib.Path(file).read_bytes())
        answer = {"file": file, "label": labels[probabilities.argmax()], "probabilities": probabilities.tolist()}
        print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()
