"""Implements `--source=arrays`: images that somebody has as NumPy arrays, in the files of `pipeline.format.arrays`.

The folder holds them, or has a folder for each official split (train, validation, test). An image is handed over as a
binary PPM or PGM, whose bytes identify it, and becomes a PNG: no value of a pixel changes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from beam_jobs.sources import SourceItem
from beam_jobs.sources.split_names import split_of
from pipeline.command import DataError, FormatError, UsageError
from pipeline.format.arrays import Arrays, has_arrays, open_arrays, read_names
from pipeline.images.policy import ReadError, RejectCode

_SCHEME = "arrays://"


@functools.lru_cache(maxsize=8)
def _opened(folder: str) -> Arrays:
    return open_arrays(folder)


def _encoded(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] or [H, W] as a binary PPM or PGM."""
    kind = b"P6" if image.ndim == 3 else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, image.shape[1], image.shape[0]) + image.tobytes()


@dataclasses.dataclass(frozen=True)
class ArraysSource:
    """Offers the images of arrays.

    Attributes:
      path: the value of --input: the folder.
      options: none.
    """

    path: str
    options: Mapping[str, str]

    needs: ClassVar[tuple[str, ...]] = ()

    @functools.cached_property
    def _parts(self) -> dict[str, str | None]:
        """Maps the folders with arrays in them, relative to the input, to their official splits."""
        if has_arrays(self.path):
            return {"": None}
        names = sorted(os.listdir(self.path)) if os.path.isdir(self.path) else []
        found = {name: split_of(name) for name in names if has_arrays(os.path.join(self.path, name))}
        if not found:
            raise UsageError(
                f"--input={self.path}: no arrays there; it needs images.npy (uint8 [N, H, W, 3] or [N, H, W]) and "
                "labels.npy ([N]), or folders train, validation, test that hold them"
            )
        if None in found.values() or len(set(found.values())) < len(found):
            raise UsageError(f"--input={self.path}: its folders ({', '.join(found)}) must be train, validation, test")
        return dict(found)

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`; reads the images, to tell changed ones."""
        names = self.labels()
        for part, split in self._parts.items():
            try:
                arrays = _opened(os.path.join(self.path, part))
            except (OSError, FormatError) as error:
                raise DataError(f"{os.path.join(self.path, part)}: {error}") from error
            for index, label in enumerate(arrays.labels):
                stamp = hashlib.sha256(_encoded(arrays.image(index))).hexdigest()
                yield SourceItem(
                    uri=f"{_SCHEME}{part}/{index}", label=self._label(label, names), split=split, stamp=stamp
                )

    def _label(self, label: np.generic, names: list[str] | None) -> str:
        value = label.item()
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if names is None or isinstance(value, str):
            return str(value)
        if not 0 <= value < len(names):
            raise DataError(f"{self.path}: label {value}, and names.txt has {len(names)} lines for 0, 1, …")
        return names[value]

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`; the image comes as a binary PPM or PGM."""
        part, _, index = item.uri.removeprefix(_SCHEME).rpartition("/")
        try:
            return _encoded(_opened(os.path.join(self.path, part)).image(int(index)))
        except (OSError, FormatError, IndexError) as error:
            raise ReadError(RejectCode.UNREADABLE, str(error)) from error

    def labels(self) -> list[str] | None:
        """Lists the names in names.txt, of the folder or of its first split; None without."""
        try:
            return read_names(self.path) or read_names(os.path.join(self.path, next(iter(self._parts))))
        except (OSError, FormatError) as error:
            raise DataError(f"{self.path}: {error}") from error

    def fingerprint(self) -> str:
        """Names the labels; the items' stamps say the rest."""
        return f"arrays:{','.join(self.labels() or ())}"
