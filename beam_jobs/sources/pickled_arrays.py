"""Reads pickled dictionaries of arrays, as the CIFAR archives hold them, without NumPy being called by them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pipeline.command import FormatError
from pipeline.format.unpickling import Function, Words, load


@dataclasses.dataclass(frozen=True)
class _Dtype:
    code: str


@dataclasses.dataclass
class _Array:
    """Stands for an array, empty until the pickle says what is in it."""

    content: np.ndarray | None = None


class _ArrayWords(Words):
    """Notes what arrays are made of."""

    kind = "official archive"
    functions: ClassVar[Mapping[tuple[str, str], Function]] = {
        ("numpy", "ndarray"): Function("ndarray"),
        ("numpy", "dtype"): Function("dtype"),
        **{
            (f"{module}.{file}", name): Function(name)
            for module in ("numpy.core", "numpy._core")
            for file, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
        },
    }
    in_tuples = (_Dtype,)
    in_dicts = (_Array,)

    def call(self, *, function: Any, arguments: Any) -> _Array | _Dtype:
        match function, arguments:
            case Function("_reconstruct"), tuple():
                return _Array()
            case Function("dtype"), (str() | bytes() as code, *_):
                return _Dtype(code.decode("latin-1") if isinstance(code, bytes) else code)
            case Function("_frombuffer"), (raw, dtype, shape, order):
                return _Array(_array(shape, dtype, order in ("F", b"F"), raw))
        raise FormatError("a call that no array needs")

    def build(self, *, target: Any, state: Any) -> None:
        match target, state:
            case _Array(), (_, shape, dtype, fortran, raw):
                target.content = _array(shape, dtype, bool(fortran), raw)
            case _Dtype(), (_, "|" | "<" | b"|" | b"<", *_):
                pass
            case _:
                raise FormatError("it changes what no array needs to be changed")


def load_dict(data: bytes) -> dict[str, Any]:
    """Reads a pickled dictionary of scalars, lists of scalars and arrays.

    Args:
      data: the pickle; arrays and long strings are views of it.

    Returns:
      Its values by their names; arrays of type uint8, int32 or int64, byte strings as `bytes` or `memoryview`.

    Raises:
      FormatError: it is damaged, holds anything else, or takes more than `unpickling.MAX_OPERATIONS`.
    """
    loaded, _ = load(data, _ArrayWords())
    if not isinstance(loaded, dict):
        raise FormatError(f"expected a dict, got {type(loaded).__name__.strip('_').lower()}")
    return {name: value.content if isinstance(value, _Array) else value for name, value in loaded.items()}


def _array(shape: Any, dtype: Any, fortran: bool, raw: Any) -> np.ndarray:
    """Makes the array that a pickle describes, a view of its bytes."""
    if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "i8", "i4"):
        raise FormatError("an array of a type that no official archive has")
    kind = np.dtype(f"<{dtype.code}")
    sides = shape if isinstance(shape, tuple) and len(shape) <= 4 else (-1,)
    if not all(isinstance(side, int) and side >= 0 for side in sides):
        raise FormatError("an array of a shape that no official archive has")
    if not isinstance(raw, bytes | memoryview) or math.prod(sides) * kind.itemsize != len(raw):
        raise FormatError(f"an array of shape {list(sides)} from other than as many bytes")
    return np.ndarray(sides, kind, raw, order="F" if fortran else "C")
