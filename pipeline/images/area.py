"""Shares memory between a decoder and its child: where the child is, and the pixels that it has made."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

_PIXELS_AT = mmap.PAGESIZE  # what comes before is for the place
_NOWHERE = 255


def _anonymous_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("decoded")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Area:
    """Is an anonymous file, which both map; what is left to read when the child has died."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Makes a file, or opens the one that the parent has made."""
        self.descriptor = _anonymous_file() if descriptor is None else descriptor
        self._map: mmap.mmap | None = None
        if descriptor is None:
            self.place = None

    @property
    def place(self) -> int | None:
        """Tells at which image of a request the child is; None if it has not come to one."""
        (place,) = os.pread(self.descriptor, 1, 0)
        return None if place == _NOWHERE else place

    @place.setter
    def place(self, number: int | None) -> None:
        os.pwrite(self.descriptor, bytes([_NOWHERE if number is None else number]), 0)

    def pixels(self, count: int, shape: Sequence[int]) -> np.ndarray:
        """Returns the memory for pixels of so many images: float32 `[count, *shape]`, shared with the other process."""
        size = _PIXELS_AT + 4 * count * math.prod(shape)
        if self._map is None or len(self._map) < size:
            if os.fstat(self.descriptor).st_size < size:
                os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        found = np.frombuffer(self._map, np.float32, count * math.prod(shape), _PIXELS_AT)
        return found.reshape(count, *shape)

    def close(self) -> None:
        """Gives the file back; what was made of `pixels` keeps its memory."""
        self._map = None
        os.close(self.descriptor)
