"""Reads the files of the CIFAR archives: pickles, without running what they say, and the plain binary version.

A pickle is a program. This reader hands it stand-ins instead of NumPy's functions, which only note what an array is
made of, and refuses every other name; not even NumPy's own unpickling code sees the untrusted bytes.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

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


class _Unpickler(pickle.Unpickler):
    """Builds lists, dicts, numbers, text and arrays of numbers; refuses anything else that a pickle asks for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")  # Python 2 wrote the official ones

        # New ones each time: a pickle can set attributes on what it is given.
        class Dtype:
            def __init__(self, code: Any, *_: Any) -> None:
                self.code = code.decode("ascii") if isinstance(code, bytes) else code

            def __setstate__(self, state: Any) -> None:
                """Ignores byte order and alignment: bytes have none, and numbers count as little-endian."""

        class Array:
            def __init__(self, *_: Any) -> None:
                self.parts: tuple[Any, ...] = ()

            def __setstate__(self, state: Any) -> None:
                _, shape, dtype, fortran, raw = state
                self.parts = (shape, dtype, fortran, raw)

        def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
            array = Array()
            array.parts = (shape, dtype, order in ("F", b"F"), raw)
            return array

        def encode(text: Any, encoding: Any) -> bytes:
            if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
                raise pickle.UnpicklingError("a call of _codecs.encode that no array needs")
            return text.encode("latin-1")

        self._names: dict[tuple[str, str], Callable[..., Any]] = {("_codecs", "encode"): encode}
        for module in ("numpy.core", "numpy._core"):
            self._names[f"{module}.multiarray", "_reconstruct"] = Array
            self._names[f"{module}.numeric", "_frombuffer"] = from_buffer
        self._names["numpy", "ndarray"] = Array
        self._names["numpy", "dtype"] = Dtype
        self._types = (Array, Dtype)

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no official archive does") from None

    def array(self, value: Any) -> np.ndarray:
        """Makes a stand-in array real."""
        array_type, dtype_type = self._types
        if not isinstance(value, array_type):
            raise BatchError(f"expected an array, got {type(value).__name__}")
        shape, dtype, fortran, raw = value.parts or ((), None, False, b"")
        if not isinstance(dtype, dtype_type) or dtype.code not in ("u1", "i8", "i4"):
            raise BatchError("an array of a type that no official archive has")
        kind = np.dtype(f"<{dtype.code}")
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise BatchError(f"an array of shape {shape!r}")
        if not isinstance(raw, (bytes, bytearray)) or math.prod(shape) * kind.itemsize != len(raw):
            raise BatchError(f"an array of shape {list(shape)} from other than as many bytes")
        return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")


def _unpickle(data: bytes) -> tuple[_Unpickler, dict[str, Any]]:
    unpickler = _Unpickler(data)
    try:
        loaded = unpickler.load()
    except Exception as error:  # a hostile pickle can provoke any exception
        raise BatchError(f"not a pickle of an official archive: {error}") from error
    if not isinstance(loaded, dict):
        raise BatchError(f"expected a dict, got {type(loaded).__name__}")
    return unpickler, {_text(key): value for key, value in loaded.items()}


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
    unpickler, loaded = _unpickle(data)
    if missing := [name for name in ("data", key) if name not in loaded]:
        raise BatchError(f'no "{missing[0]}" in it')
    labels = loaded[key]
    if isinstance(labels, list):
        if not all(type(label) is int and 0 <= label < 1000 for label in labels):
            raise BatchError("labels that are no small numbers")
        numbers = np.array(labels, np.int64)
    else:
        numbers = unpickler.array(labels)
    return Batch(unpickler.array(loaded["data"]), numbers)


def read_pickled_meta(data: bytes, *, key: str) -> list[str]:
    """Reads the label names of the python version. Raises BatchError."""
    _, loaded = _unpickle(data)
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
