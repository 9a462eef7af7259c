"""Speaks TensorFlow Serving's REST protocol, as its clients and its documents do, for the signature of our exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.command import FormatError
from trainer.serve.protocols.bodies import (
    CLASS_INDEX,
    LABEL,
    PROBABILITIES,
    Answer,
    decode_image,
    read_object,
    spelt,
)
from trainer.serving.signature import INPUT, SIGNATURE

_KEYS = ("signature_name", "instances", "inputs")
_B64 = "b64"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Holds a request: the images, and whether columns ("inputs") were given, which are answered by columns."""

    images: Sequence[bytes]
    columns: bool


def read_predict(body: bytes) -> Predict:
    """Reads the body of `:predict`.

    Raises:
      FormatError: it is not as the protocol says, or asks for what our signature has not.
    """
    found = read_object(body)
    if unknown := [key for key in found if key not in _KEYS]:
        raise FormatError(f"unknown key {spelt(unknown[0])}; known are {', '.join(_KEYS)}")
    signature = found.get("signature_name", "")
    if signature not in ("", SIGNATURE):
        raise FormatError(f"signature_name {spelt(signature)}: the model has the signature {SIGNATURE} only")
    if ("instances" in found) == ("inputs" in found):
        raise FormatError('give either "instances" (a list of images) or "inputs" (columns)')
    columns = "inputs" in found
    values = _column(found["inputs"]) if columns else found["instances"]
    where = "inputs" if columns else "instances"
    if not isinstance(values, list) or not values:
        raise FormatError(f'"{where}" must be a list of images that is not empty, got {spelt(values)}')
    images = [_image(value, f"{where}[{at}]", named=not columns) for at, value in enumerate(values)]
    return Predict(images=images, columns=columns)


def _column(inputs: object) -> object:
    """Returns the only column, whether it is named or not."""
    if not isinstance(inputs, dict):
        return inputs
    if list(inputs) != [INPUT]:
        raise FormatError(f'"inputs" must have the key {INPUT} only, got {spelt(inputs)}')
    return inputs[INPUT]


def _image(value: object, where: str, *, named: bool) -> bytes:
    if named and isinstance(value, dict) and INPUT in value:
        if len(value) > 1:
            raise FormatError(f"{where} must have the key {INPUT} only, got {spelt(value)}")
        value, where = value[INPUT], f"{where}.{INPUT}"
    if not isinstance(value, dict) or list(value) != [_B64]:
        raise FormatError(f'{where} must be an image, {{"{_B64}": "…"}}, got {spelt(value)}')
    return decode_image(value[_B64], f"{where}.{_B64}")


def predictions(answers: Sequence[Answer], *, columns: bool) -> dict[str, Any]:
    """Returns the body that answers `:predict`: row by row, or by columns."""
    if not columns:
        return {"predictions": [_row(answer) for answer in answers]}
    rows = [_row(answer) for answer in answers]
    return {"outputs": {name: [row[name] for row in rows] for name in (LABEL, CLASS_INDEX, PROBABILITIES)}}


def _row(answer: Answer) -> dict[str, Any]:
    return {
        LABEL: answer.label,
        CLASS_INDEX: answer.class_index,
        PROBABILITIES: answer.probabilities.tolist(),
    }


def status(version: str) -> dict[str, Any]:
    """Returns the body that tells the state of the one version that is served."""
    known = {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [known]}


def metadata(name: str, version: str, *, classes: int) -> dict[str, Any]:
    """Returns the body that describes the signature, of a model with so many classes."""
    outputs = {
        LABEL: _tensor("DT_STRING", -1, name=LABEL),
        CLASS_INDEX: _tensor("DT_INT64", -1, name=CLASS_INDEX),
        PROBABILITIES: _tensor("DT_FLOAT", -1, classes, name=PROBABILITIES),
    }
    signature = {
        "inputs": {INPUT: _tensor("DT_STRING", -1, name=INPUT)},
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor(dtype: str, *shape: int, name: str) -> dict[str, Any]:
    dim = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": f"{name}:0"}
