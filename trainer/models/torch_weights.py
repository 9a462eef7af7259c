"""Reads a PyTorch state dict in the legacy `.pth` layout with NumPy alone: no torch, and nothing in the file runs.

Layout (torch/serialization.py, `_legacy_save`): five pickles (magic number, protocol, system information, the object,
the storages' keys), then for every key an int64 element count and the raw little-endian values.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
import pickle
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from pipeline.command import UsageError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_TYPES: dict[str, np.dtype] = {
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
}


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Describes a view into a storage whose values come after the pickles."""

    key: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: tuple[str, np.dtype], offset: int, shape: Sequence[int], strides: Sequence[int], *_: object
) -> _Tensor:
    key, dtype = storage
    return _Tensor(key, dtype, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows the three kinds of name that a state dict needs and refuses all others, so a hostile file calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(_STORAGE_TYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no plain state dict needs")

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype]:
        kind, storage_type, key, *_ = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent reference {kind!r}")
        return key, storage_type.dtype


def _read_storages(file: IO[bytes], tensors: dict[str, _Tensor], keys: list[str]) -> dict[str, np.ndarray]:
    types = {tensor.key: tensor.dtype for tensor in tensors.values()}
    storages = {}
    for key in keys:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        dtype = types[key]
        data = file.read(count * dtype.itemsize) if count >= 0 else b""
        if count < 0 or len(data) != count * dtype.itemsize:
            raise ValueError("it is truncated")
        storages[key] = np.frombuffer(data, dtype)
    return storages


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset < 0 or any(n < 0 or s < 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)):
        raise ValueError("a tensor with negative sizes")
    # The second: strides of 0 would let a small file ask for all memory.
    if 0 not in tensor.shape and (last >= storage.size or math.prod(tensor.shape) > storage.size):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [s * storage.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False).copy()


def read_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads arrays by parameter name (own memory, the file's dtype) from a legacy-layout `.pth` file.

    Raises:
      UsageError: the file is absent, not in the legacy layout, damaged, or asks for any callable beyond a state dict's.
    """
    try:
        with open(path, "rb") as file:
            head = [_Unpickler(file).load() for _ in range(3)]
            if head[:2] != [_MAGIC, _PROTOCOL] or not head[2]["little_endian"]:
                raise ValueError("its header is another")
            tensors = _Unpickler(file).load()
            tensors = {name: value for name, value in tensors.items() if isinstance(value, _Tensor)}
            storages = _read_storages(file, tensors, _Unpickler(file).load())
            return {name: _view(tensor, storages[tensor.key]) for name, tensor in tensors.items()}
    except OSError as error:
        raise UsageError(f"{path}: cannot read the weights: {error.strerror}") from error
    # A hostile or damaged pickle may fail in any way at all, and each of them means the same to the user.
    except Exception as error:
        raise UsageError(f"{path}: not a PyTorch state dict in the legacy .pth layout: {error}") from error
