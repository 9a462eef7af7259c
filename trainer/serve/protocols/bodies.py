"""Reads JSON from the world within bounds, and holds what all protocols answer with."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from typing import Any

import numpy as np

from pipeline.command import FormatError

LABEL, CLASS_INDEX, PROBABILITIES = "label", "class_index", "probabilities"  # outputs, in the protocols that name them
# Python makes an object of tens of bytes of each value, and an honest body has few beside its images.
_MAX_VALUES = 100_000
_SHOWN = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Holds what a model says of an image.

    Attributes:
      label: the name of the most probable class.
      class_index: its place among the labels.
      probabilities: float32 [C].
      features: float32 [F] that they were made of; None of a model that does not give them.
    """

    label: str
    class_index: int
    probabilities: np.ndarray
    features: np.ndarray | None = None


def read_object(body: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      FormatError: it is none, or has more values than any honest one.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise FormatError(f"the JSON has more than {_MAX_VALUES} values")
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise FormatError("the JSON is nested too deeply") from error
    except ValueError as error:  # of its text, or of its encoding
        raise FormatError(f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"the body must be a JSON object, got {spelt(found)}")
    return found


def decode_image(value: object, where: str) -> bytes:
    """Decodes the base64 of an image, also such that has line breaks or lacks its padding.

    Args:
      value: as JSON gave it.
      where: names it in the error.

    Raises:
      FormatError: it is no text, or not base64.
    """
    if not isinstance(value, str):
        raise FormatError(f"{where} must be the base64 of an image file, got {spelt(value)}")
    text = "".join(value.split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: letters beyond ASCII
        raise FormatError(f"{where} is not base64: {error}") from error


def spelt(value: object) -> str:
    """Spells a JSON value for an error message, no more of it than fits."""
    if isinstance(value, dict | list):
        kind, what = ("an object", "keys") if isinstance(value, dict) else ("a list", "values")
        return f"{kind} of {len(value)} {what}"
    text = json.dumps(value[: _SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def write_json(value: object) -> bytes:
    """Returns JSON in UTF-8; half a surrogate pair, which a client may have sent, stays escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
