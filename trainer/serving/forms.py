"""Lists the forms that a model is exported in: names for people, and the files. Free of TensorFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from pipeline.command import UsageError, nearest
from pipeline.format.reference import REFERENCE_FILE
from pipeline.format.sums import SUMS_FILE
from trainer.models.weights import KERAS_FILE, LABELS_FILE
from trainer.report.files import FORMS_FILE
from trainer.serving.golden import FOLDER as GOLDEN

SAVED_MODEL, TFLITE_FILE, INT8_FILE, ONNX_FILE = "saved_model", "model.tflite", "model_int8.tflite", "model.onnx"
PAGE_FILE = "try.html"  # no form of its own: it holds one, and the browser that asks it
PREPROCESS_FILE = "preprocess.json"  # how the forms that take pixels see images
TOLERANCE = 1e-3  # of a probability: float32 in another order of summation; observed 1e-6. Other pixels make 0.1
FORMS: Mapping[str, str] = {
    "saved_model": SAVED_MODEL,
    "keras": KERAS_FILE,
    "litert": TFLITE_FILE,
    "litert_int8": INT8_FILE,
    "onnx": ONNX_FILE,
}
# All that an export may hold, which another one replaces; whatever else lies in a folder is another hand's.
EXPORTED = frozenset(
    {
        *FORMS.values(),
        *(LABELS_FILE, PREPROCESS_FILE, PAGE_FILE, FORMS_FILE, REFERENCE_FILE, SUMS_FILE),
        *("pixels.py", "ask.py", GOLDEN),
    }
)
_NAMES = (*FORMS, "page")
ALWAYS = ("saved_model", "keras", "litert")  # what a run exports by itself, and the other forms are made of
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


def check_forms(names: Sequence[str]) -> None:
    """Raises UsageError for a form that is unknown, or whose library is not installed."""
    for name in names:
        if name not in _NAMES:
            raise UsageError(f"--formats={name}: no such form; known are {', '.join(_NAMES)}.{nearest(name, _NAMES)}")
    if "onnx" in names and not all(map(importlib.util.find_spec, _ONNX_PACKAGES)):
        raise UsageError("--formats=onnx: its libraries are not installed; pip install 'tpu-retraining[onnx]'")
