"""Writes `.pth` files as PyTorch lays them out, operation by operation, without PyTorch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_TYPES = {"<f4": b"FloatStorage", "<f2": b"HalfStorage", "<i8": b"LongStorage"}
HEADER = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def ints(values) -> bytes:
    return b"".join(b"J" + struct.pack("<i", value) for value in values)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(key: str, *, kind=b"FloatStorage", offset=0, shape, strides, count=0, view=b"") -> bytes:
    """Spells the call that makes a tensor of the storage `key`; `view`: what comes after its count."""
    reference = b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + ints([count]) + view
    sizes = b"".join(b"(" + ints(values) + b"t" for values in (shape, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"tQ" + ints([offset]) + sizes + b"\x89" + hooks + b"tR"
    )


def state(tensors: Mapping[str, bytes]) -> bytes:
    """Pickles an OrderedDict of spelled tensors, with versions of modules as PyTorch adds them."""
    items = b"".join(text(name) + spelled for name, spelled in tensors.items())
    versions = b"}" + text("_metadata") + b"}" + text("") + b"}" + text("version") + b"K\x01sss"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + versions + b"b."


def spelled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pickles a state dict of contiguous arrays, the n-th in the storage n."""
    tensors = {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        kind = _TYPES[array.dtype.str]
        tensors[name] = tensor(str(key), kind=kind, shape=array.shape, strides=strides, count=array.size)
    return state(tensors)


def zipped(members: Mapping[str, bytes], *, compression=zipfile.ZIP_STORED) -> bytes:
    """Packs members into the folder `archive`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def zip_pth(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns a file of the zip layout."""
    storages = {f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
    return zipped({"data.pkl": spelled(arrays), "byteorder": b"little", **storages, "version": b"3\n"})


def legacy_pth(pickled: bytes, keys: bytes = pickle.dumps([], 2), storages: bytes = b"") -> bytes:
    """Returns a file of the legacy layout."""
    return HEADER + pickled + keys + storages
