"""Shares memory between a decoder and its child: where the child is, and the pixels that it has made."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

_PIXELS_AT = mmap.PAGESIZE  # what comes before is for the place
_NOWHERE = 255


def _anonymous_file() -> BinaryIO:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("decoded"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


class Area:
    """Is an anonymous file, which both map; what is left to read when the child has died."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Makes a file, or opens the one that the parent has made."""
        opened = _anonymous_file() if descriptor is None else os.fdopen(descriptor, "r+b", buffering=0)
        self._file: BinaryIO = opened
        self._map: mmap.mmap | None = None
        if descriptor is None:
            self.place = None

    def fileno(self) -> int:
        """Returns its descriptor, for the other process."""
        return self._file.fileno()

    @property
    def place(self) -> int | None:
        """Tells at which image of a request the child is; None if it has not come to one."""
        (place,) = os.pread(self.fileno(), 1, 0)
        return None if place == _NOWHERE else place

    @place.setter
    def place(self, number: int | None) -> None:
        os.pwrite(self.fileno(), bytes([_NOWHERE if number is None else number]), 0)

    def pixels(self, count: int, shape: Sequence[int]) -> np.ndarray:
        """Returns the memory for pixels of so many images: float32 `[count, *shape]`, shared with the other process."""
        size = _PIXELS_AT + 4 * count * math.prod(shape)
        if self._map is None or len(self._map) < size:
            if os.fstat(self.fileno()).st_size < size:
                self._file.truncate(size)
            self._map = mmap.mmap(self.fileno(), size)
        found = np.frombuffer(self._map, np.float32, count * math.prod(shape), _PIXELS_AT)
        return found.reshape(count, *shape)

    def close(self) -> None:
        """Gives the file back; what was made of `pixels` keeps its memory."""
        self._map = None
        self._file.close()
