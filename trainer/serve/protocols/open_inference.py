"""Speaks the Open Inference Protocol, version 2, which KServe and Triton share, with its extension of binary tensors.

In JSON an image is base64, because JSON holds no bytes. In binary tensors it is its file's bytes, behind their number
(4 bytes, little-endian), as the extension says.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.command import FormatError
from trainer.serve.protocols.bodies import (
    CLASS_INDEX,
    LABEL,
    PROBABILITIES,
    Answer,
    decode_image,
    read_object,
    spelt,
    write_json,
)
from trainer.serving.signature import INPUT

HEADER_LENGTH = "inference-header-content-length"  # the bytes of JSON before the tensors
EXTENSIONS = ["binary_tensor_data"]
_OUTPUTS = (LABEL, CLASS_INDEX, PROBABILITIES)
_TYPES = {LABEL: "BYTES", CLASS_INDEX: "INT64", PROBABILITIES: "FP32"}
_SIZE = struct.Struct("<I")
_DIGITS = 20  # more bytes than any body has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Infer:
    """Holds a request.

    Attributes:
      images: to be answered.
      id: of the request, which is returned with the answer; None where it has none.
      outputs: name of each that is wanted → whether as a binary tensor.
    """

    images: Sequence[bytes]
    id: str | None
    outputs: Mapping[str, bool]


def read_infer(body: bytes, header_length: str | None) -> Infer:
    """Reads the body of an inference.

    Args:
      body: JSON, and behind it binary tensors.
      header_length: the header HEADER_LENGTH; None without it. "0" says that the body is one image, as Triton has it.

    Raises:
      FormatError: it is not as the protocol says, or asks for what the model has not.
    """
    if header_length is None:
        return _read(read_object(body), memoryview(b""))
    given = header_length[:_DIGITS]
    if not (given.isascii() and given.isdecimal() and int(given) <= len(body)):
        raise FormatError(f"{HEADER_LENGTH} must be 0 to the body's {len(body)} bytes, got {spelt(given)}")
    length = int(given)
    if not length:
        return Infer(images=[body], id=None, outputs=dict.fromkeys(_OUTPUTS, False))
    return _read(read_object(body[:length]), memoryview(body)[length:])


def _read(found: Mapping[str, Any], tensors: memoryview) -> Infer:
    key = found.get("id")
    if key is not None and not isinstance(key, str):
        raise FormatError(f'"id" must be a string, got {spelt(key)}')
    inputs = found.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise FormatError(f'"inputs" must be a list of one tensor, {INPUT}, got {spelt(inputs)}')
    binary = bool(_parameters(found).get("binary_data_output", False))
    images = _images(inputs[0], tensors)
    return Infer(images=images, id=key, outputs=_outputs(found.get("outputs"), binary))


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise FormatError(f'"parameters" must be an object, got {spelt(parameters)}')
    return parameters or {}


def _images(tensor: Mapping[str, Any], tensors: memoryview) -> list[bytes]:
    if tensor.get("name") != INPUT:
        raise FormatError(f"the model has the input {INPUT} only, got {spelt(tensor.get('name'))}")
    if tensor.get("datatype") != "BYTES":
        raise FormatError(f"the datatype of {INPUT} is BYTES, got {spelt(tensor.get('datatype'))}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise FormatError(f"the shape of {INPUT} must be [images], got {spelt(shape)}")
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if len(tensors):
            raise FormatError(f"{len(tensors)} bytes behind the JSON, and no binary_data_size of {INPUT}")
        images = [decode_image(one, f"{INPUT}[{at}]") for at, one in enumerate(_flat(tensor.get("data")))]
    elif type(size) is not int or size != len(tensors):
        raise FormatError(f"binary_data_size of {INPUT} is {spelt(size)}, and {len(tensors)} bytes follow the JSON")
    else:
        images = list(_elements(tensors))
    if len(images) != math.prod(shape) or max(shape) != len(images):
        raise FormatError(f"the shape of {INPUT} is {shape}, and {len(images)} images are given")
    return images


def _flat(data: object) -> list[Any]:
    """Takes [N] and [N, 1], which some clients send."""
    if not isinstance(data, list):
        raise FormatError(f'"data" of {INPUT} must be a list of base64 texts, got {spelt(data)}')
    return [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]


def _elements(tensor: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(tensor):
        if at + _SIZE.size > len(tensor):
            raise FormatError(f"the binary tensor {INPUT} ends within the length of an image")
        (length,) = _SIZE.unpack_from(tensor, at)
        at += _SIZE.size
        if at + length > len(tensor):
            raise FormatError(f"the binary tensor {INPUT} has {len(tensor) - at} bytes for an image of {length}")
        yield bytes(tensor[at : at + length])
        at += length


def _outputs(wanted: object, binary: bool) -> dict[str, bool]:
    if not wanted:
        return dict.fromkeys(_OUTPUTS, binary)
    if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
        raise FormatError(f'"outputs" must be a list of objects, got {spelt(wanted)}')
    found = {}
    for one in wanted:
        name = one.get("name")
        if not isinstance(name, str) or name not in _OUTPUTS:
            raise FormatError(f"the model has the outputs {', '.join(_OUTPUTS)}, got {spelt(name)}")
        parameters = _parameters(one)
        if parameters.get("classification"):
            raise FormatError(f"classification is not spoken here; ask for {PROBABILITIES}")
        found[name] = bool(parameters.get("binary_data", binary))
    return found


def infer_response(request: Infer, answers: Sequence[Answer], *, name: str, version: str) -> tuple[bytes, int | None]:
    """Returns the body that answers an inference, and the bytes of JSON at its beginning; None if it is JSON only."""
    outputs, tensors = [], []
    for output, binary in request.outputs.items():
        shape = [len(answers)] + ([len(answers[0].probabilities)] if output == PROBABILITIES else [])
        tensor: dict[str, Any] = {"name": output, "datatype": _TYPES[output], "shape": shape}
        if binary:
            tensors.append(_binary(output, answers))
            tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            tensor["data"] = _values(output, answers)
        outputs.append(tensor)
    found: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        found["id"] = request.id
    head = write_json(found)
    return b"".join([head, *tensors]), len(head) if tensors else None


def _values(output: str, answers: Sequence[Answer]) -> list[Any]:
    if output == LABEL:
        return [answer.label for answer in answers]
    if output == CLASS_INDEX:
        return [answer.class_index for answer in answers]
    return [value for answer in answers for value in answer.probabilities.tolist()]


def _binary(output: str, answers: Sequence[Answer]) -> bytes:
    if output == LABEL:
        texts = [answer.label.encode() for answer in answers]
        return b"".join(_SIZE.pack(len(text)) + text for text in texts)
    if output == CLASS_INDEX:
        return np.array([answer.class_index for answer in answers], "<i8").tobytes()
    return np.stack([answer.probabilities for answer in answers]).astype("<f4").tobytes()


def metadata(name: str, version: str, *, classes: int) -> dict[str, Any]:
    """Returns the body that describes a model with so many classes."""
    shapes = {LABEL: [-1], CLASS_INDEX: [-1], PROBABILITIES: [-1, classes]}
    return {
        "name": name,
        "versions": [version],
        "platform": "tensorflow_lite",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": key, "datatype": _TYPES[key], "shape": shapes[key]} for key in _OUTPUTS],
    }
