"""Brings images that are no files, arrays or a tf.data set, into a folder that `--source=arrays` reads."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.command import UsageError
from pipeline.format.arrays import write_arrays

if TYPE_CHECKING:
    import tensorflow as tf

# (images, labels): uint8 [N, H, W, 3] or [N, H, W], or a list of such images that differ in size; N names or whole
# numbers. Or a tf.data set of pairs, batched or not.
Labelled: TypeAlias = "tuple[Any, Any] | tf.data.Dataset"
InMemory: TypeAlias = "Labelled | Mapping[str, Labelled]"  # split → images, where the splits are given

_SPLITS = ("train", "validation", "test")


def is_in_memory(data: object) -> bool:
    """Says whether `data` is images, not where they are."""
    return isinstance(data, Mapping | tuple) or _is_tf_data(data)


def place_of(data: object, names: Sequence[str] | None) -> str:
    """Returns where images lie that are not in memory.

    Args:
      data: their path.
      names: that were given for labels.

    Raises:
      UsageError: `data` is no path; or there are names, which only images in memory can have.
    """
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            f"a {type(data).__name__} is no data; give a path, a pair (images, labels), a tf.data set of pairs, or "
            'either of them by split, {"train": …, "test": …}'
        )
    if names is not None:
        raise UsageError(f"label_names are for images in memory, not for {os.fspath(data)}")
    return os.fspath(data)


def write_input(folder: str, data: InMemory, *, names: Sequence[str] | None) -> str:
    """Writes images and labels into an empty folder; returns the value of --input.

    Args:
      folder: where to.
      data: the images.
      names: of labels that are numbers, from 0.

    Raises:
      UsageError: they are of another kind.
    """
    if not isinstance(data, Mapping):
        place = os.path.join(folder, "arrays")
        write_arrays(place, _pairs(data), names=names)
        return place
    if unknown := [split for split in data if split not in _SPLITS]:
        raise UsageError(f'"{unknown[0]}" is no split; images are given for {", ".join(_SPLITS)}')
    for split, part in data.items():
        write_arrays(os.path.join(folder, split), _pairs(part), names=names)
    return folder


def _is_tf_data(data: object) -> bool:
    tensorflow = sys.modules.get("tensorflow")  # who has such a set has imported it
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


def _pairs(data: Any) -> Iterator[tuple[np.ndarray, object]]:
    """Yields (image, label)."""
    if _is_tf_data(data):
        yield from _pairs_of_set(data)
        return
    if not isinstance(data, tuple) or len(data) != 2:
        raise UsageError(f"{type(data).__name__} is no pair (images, labels), and no tf.data set of such pairs")
    images, labels = data
    if len(images) != len(labels):
        raise UsageError(f"{len(images):,} images and {len(labels):,} labels; give as many of each")
    yield from zip(map(np.asarray, images), labels, strict=True)


def _pairs_of_set(data: tf.data.Dataset) -> Iterator[tuple[np.ndarray, object]]:
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise UsageError("a tf.data set must yield pairs (image, label), as tfds.load(…, as_supervised=True) does")
    if int(data.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise UsageError("a tf.data set must come to an end: leave repeat() out")
    batched = spec[0].shape.rank == 4
    for image, label in data.as_numpy_iterator():
        yield from zip(image, label, strict=True) if batched else itertools.repeat((image, label), 1)
