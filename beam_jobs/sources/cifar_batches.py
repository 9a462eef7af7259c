"""Reads the files of the CIFAR archives: pickles, without running what they say, and the plain binary version."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from beam_jobs.sources.pickled_arrays import load_dict
from pipeline.command import FormatError

IMAGE_BYTES = 3 * 32 * 32


class BatchError(FormatError):
    """Reports a file that is not what the official archives hold; says why, while the caller knows which file."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Holds a file's images and labels: uint8 [n, 3072] (red plane, green, blue; rows first) and int64 [n]."""

    planes: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.planes.dtype != np.uint8 or self.planes.ndim != 2 or self.planes.shape[1] != IMAGE_BYTES:
            raise BatchError(f"expected uint8 [n, {IMAGE_BYTES}], got {self.planes.dtype} {list(self.planes.shape)}")
        if self.labels.shape != self.planes.shape[:1] or self.labels.dtype.kind not in "iu":
            raise BatchError(f"{len(self.planes)} images but labels {self.labels.dtype} {list(self.labels.shape)}")
        if self.labels.min(initial=0) < 0:
            raise BatchError(f"label {self.labels.min()} is negative")

    def images(self) -> np.ndarray:
        """Rearranges the planes into uint8 [n, 32, 32, 3]."""
        return np.ascontiguousarray(self.planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _unpickle(data: bytes) -> dict[str, Any]:
    try:
        return load_dict(data)
    except FormatError as error:
        raise BatchError(f"not a pickle of an official archive: {error}") from error


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise BatchError(f"expected an array, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_python(data: bytes, *, key: str) -> Batch:
    """Reads a batch of the python version; any number of images.

    Args:
      data: the file.
      key: where the labels are ("labels", "fine_labels").

    Raises:
      BatchError: it is damaged, or asks for anything that no official archive does.
    """
    loaded = _unpickle(data)
    if missing := [name for name in ("data", key) if name not in loaded]:
        raise BatchError(f'no "{missing[0]}" in it')
    labels = loaded[key]
    if isinstance(labels, list):
        if not all(type(label) is int and 0 <= label < 1000 for label in labels):
            raise BatchError("labels that are no small numbers")
        numbers = np.array(labels, np.int64)
    else:
        numbers = _array(labels)
    return Batch(_array(loaded["data"]), numbers)


def read_pickled_meta(data: bytes, *, key: str) -> list[str]:
    """Reads the label names of the python version. Raises BatchError."""
    loaded = _unpickle(data)
    names = loaded.get(key)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise BatchError(f'no list of names "{key}" in it')
    return [_text(name) for name in names]


def read_binary(data: bytes, *, label_bytes: int) -> Batch:
    """Reads a batch of the binary version: of each image `label_bytes` labels (the last one counts), then its planes.

    Raises:
      BatchError: it does not consist of whole images.
    """
    size = label_bytes + IMAGE_BYTES
    if len(data) % size:
        raise BatchError(f"{len(data)} bytes are not a multiple of {size}: truncated, or another data set")
    rows = np.frombuffer(data, np.uint8).reshape(-1, size)
    return Batch(rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64))


def read_names(data: bytes) -> list[str]:
    """Reads the label names of the binary version: one a line."""
    return [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
