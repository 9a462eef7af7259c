"""Reads a PyTorch state dict, of either layout of `.pth` file, with NumPy alone: no torch, and nothing in it runs.

torch/serialization.py describes both. The zip layout (PyTorch 1.6 and later): `data.pkl`, a pickle of the object, and
beside it `data/<key>`, each storage's raw values, all stored as they are. The legacy layout: five pickles (magic
number, protocol, system information, the object, the storages' keys), then for every key an int64 element count and the
raw values.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from pipeline.command import FormatError, UsageError
from pipeline.format.unpickling import Function, Words, load

_ZIP = b"PK\x03\x04"
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
class _Storage:
    """Names raw values elsewhere in the file."""

    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Describes a view into a storage; offset, shape and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorWords(Words):
    """Notes what tensors are made of.

    Attributes:
      storages: type of each storage that is referred to, by its key.
    """

    kind = "plain state dict"
    functions: ClassVar[Mapping[tuple[str, str], Function]] = {
        ("collections", "OrderedDict"): Function("OrderedDict"),
        **{
            ("torch._utils", name): Function(name)
            for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
        },
        **{("torch", name): Function(name) for name in _STORAGE_TYPES},
    }
    in_tuples = (_Storage, _Tensor, dict)
    in_dicts = (_Tensor, dict)

    def __init__(self) -> None:
        self.storages: dict[str, np.dtype] = {}

    def call(self, *, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case Function("OrderedDict"), ():
                return {}
            case Function("_rebuild_tensor" | "_rebuild_tensor_v2"), (
                _Storage() as storage,
                offset,
                shape,
                strides,
                *_,
            ):
                return _tensor(storage, offset, shape, strides)
            case Function("_rebuild_parameter"), (_Tensor() as tensor, *_):
                return tensor
        raise FormatError("a call that no state dict needs")

    def build(self, *, target: Any, state: Any) -> None:
        if not isinstance(target, dict):  # an OrderedDict's attributes: the versions of the modules
            raise FormatError("it changes what no state dict needs to be changed")

    def refer(self, reference: Any) -> _Storage:
        match reference:
            case ("storage", Function(name), str() as key, _, int(), *view) if name in _STORAGE_TYPES:
                if view not in ([], [None]):
                    raise FormatError(f"storage {key:.50} is a part of another")
                if self.storages.setdefault(key, _STORAGE_TYPES[name]) != _STORAGE_TYPES[name]:
                    raise FormatError(f"storage {key:.50} is of two types")
                return _Storage(key, _STORAGE_TYPES[name])
        raise FormatError("a reference to other than a storage of numbers")


def _tensor(storage: _Storage, offset: Any, shape: Any, strides: Any) -> _Tensor:
    sizes = (*shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    if not all(isinstance(size, int) for size in (offset, *sizes)) or len(shape) != len(strides):
        raise FormatError("a tensor of no shape")
    if min((offset, *sizes)) < 0:
        raise FormatError("a tensor with negative sizes")
    return _Tensor(storage, offset, shape, strides)


def _view(tensor: _Tensor, raw: bytes | memoryview) -> np.ndarray:
    values = np.frombuffer(raw, tensor.storage.dtype)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    # The second: with strides of 0, a copy of what a small file holds could take all memory.
    if 0 not in tensor.shape and (last >= values.size or math.prod(tensor.shape) > values.size):
        raise FormatError("a tensor reaches beyond its storage")
    strides = [s * values.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)


def _arrays(state: Any, read: Callable[[_Storage], bytes | memoryview]) -> dict[str, np.ndarray]:
    """Makes arrays of a state dict's tensors; `read` returns a storage's raw values."""
    if not isinstance(state, dict):
        raise FormatError("it holds no dictionary")
    tensors = {name: value for name, value in state.items() if isinstance(value, _Tensor)}
    storages: dict[_Storage, bytes | memoryview] = {}
    for tensor in tensors.values():
        if tensor.storage not in storages:
            storages[tensor.storage] = read(tensor.storage)
    return {name: _view(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def _read_zip(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # Whatever the directory says, members are read no larger than the file: stored as they are, none of them twice.
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members.values()):
            raise FormatError("a member is compressed, which PyTorch never does")
        if sum(member.file_size for member in members.values()) > os.path.getsize(path):
            raise FormatError("members lie on top of each other")
        folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise FormatError("no data.pkl in it, or several")
        order = members.get(f"{folders[0]}byteorder")
        if order and archive.read(order) != b"little":
            raise FormatError("it is of a big-endian machine")

        def read(storage: _Storage) -> bytes:
            member = members.get(f"{folders[0]}data/{storage.key}")
            if member is None:
                raise FormatError(f"it is truncated: no storage {storage.key:.50}")
            return archive.read(member)

        state, _ = load(archive.read(members[f"{folders[0]}data.pkl"]), _TensorWords())
        return _arrays(state, read)


def _read_legacy(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        data = memoryview(file.read())
    words, parts, at = _TensorWords(), [], 0
    for _ in range(5):
        part, at = load(data, words, start=at)
        parts.append(part)
    magic, protocol, system, state, keys = parts
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not isinstance(system, dict) or not isinstance(keys, list):
        raise FormatError("its header is another")
    if system.get("little_endian") is not True:
        raise FormatError("it is of a big-endian machine")
    found = {}
    for key in keys:
        if key not in words.storages:
            raise FormatError("a storage that nothing refers to")
        size = int.from_bytes(data[at : at + 8], "little", signed=True) * words.storages[key].itemsize
        at += 8
        if not 0 <= size <= len(data) - at:
            raise FormatError("it is truncated")
        found[key] = data[at : at + size]
        at += size

    def read(storage: _Storage) -> memoryview:
        if storage.key not in found:
            raise FormatError(f"it is truncated: no storage {storage.key:.50}")
        return found[storage.key]

    return _arrays(state, read)


def read_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads arrays by parameter name from a `.pth` file: read-only views, of the file's dtypes.

    Raises:
      UsageError: the file is absent, of another layout, damaged, or asks for any callable beyond a state dict's.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP
        return _read_zip(path) if is_zip else _read_legacy(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the weights: {error.strerror}") from error
    # What is hostile or damaged may fail in any way at all, in zipfile above all; to the user each means the same.
    except Exception as error:
        raise UsageError(f"{path}: not a PyTorch state dict: {error}") from error
