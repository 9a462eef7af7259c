"""Defines how images in arrays lie in a folder for `--source=arrays`: writes them, and reads one at a time.

A folder holds `labels.npy` ([N], names or numbers), perhaps `names.txt` (a line for each number, from 0), and either
`images.npy` (uint8 [N, H, W, 3] or [N, H, W]), as NumPy saves it, or, of images that differ in size, `pixels.raw` (one
image behind the other) and `shapes.npy` (int64 [N, 3]: height, width, channels). Nothing in it is unpickled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.command import FormatError, UsageError

_IMAGES, _LABELS, _NAMES, _PIXELS, _SHAPES = "images.npy", "labels.npy", "names.txt", "pixels.raw", "shapes.npy"
_CHANNELS = (1, 3)  # grey, RGB


def has_arrays(folder: str) -> bool:
    """Says whether arrays lie directly in a folder."""
    return os.path.isfile(os.path.join(folder, _LABELS))


def read_names(folder: str) -> list[str] | None:
    """Reads the labels' names in their order, or returns None where nothing says them."""
    try:
        with open(os.path.join(folder, _NAMES), encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise FormatError(f"{_NAMES} is no UTF-8") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """Holds the images of a folder, of which only those that are asked for are read.

    Attributes:
      labels: of each image, its name or number.
      stack: uint8 [N, H, W, 3] or [N, H, W]; None where they differ in size.
      pixels: uint8, all that there are, one image behind the other; None where there is a stack.
      shapes: int64 [N, 3], of images in `pixels`.
      starts: int64 [N], where each of them begins.
    """

    labels: np.ndarray
    stack: np.ndarray | None
    pixels: np.ndarray | None
    shapes: np.ndarray
    starts: np.ndarray

    def image(self, index: int) -> np.ndarray:
        """Reads an image, uint8 [H, W, 3] or, grey, [H, W]."""
        if self.stack is not None:
            found = np.ascontiguousarray(self.stack[index])
        else:
            assert self.pixels is not None
            start, shape = int(self.starts[index]), self.shapes[index]
            found = np.array(self.pixels[start : start + int(shape.prod())]).reshape(shape)
        return found[..., 0] if found.shape[-1] == 1 and found.ndim == 3 else found


def open_arrays(folder: str) -> Arrays:
    """Opens a folder's arrays without reading the images.

    Raises:
      OSError: a file cannot be read.
      FormatError: it holds something else than it should.
    """
    labels = _load(folder, _LABELS)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras' sets have them
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        raise FormatError(f"{_LABELS} is {_described(labels)}; it must be names or whole numbers, one for each image")
    if os.path.isfile(os.path.join(folder, _IMAGES)):
        stack = _load(folder, _IMAGES)
        if stack.dtype != np.uint8 or not (stack.ndim == 3 or (stack.ndim == 4 and stack.shape[3] in _CHANNELS)):
            raise FormatError(f"{_IMAGES} is {_described(stack)}; it must be uint8 [N, H, W, 3] or [N, H, W]")
        if len(stack) != len(labels):
            raise FormatError(f"{_IMAGES} has {len(stack)} images, {_LABELS} {len(labels)} labels")
        none = np.zeros(0, np.int64)
        return Arrays(labels=labels, stack=stack, pixels=None, shapes=none, starts=none)
    shapes = _load(folder, _SHAPES)
    if shapes.dtype != np.int64 or shapes.shape != (len(labels), 3) or (shapes < 1).any():
        raise FormatError(f"{_SHAPES} is {_described(shapes)}; it must be int64 [{len(labels)}, 3]")
    if not np.isin(shapes[:, 2], _CHANNELS).all():
        raise FormatError(f"{_SHAPES}: images have 1 or 3 channels")
    sizes = shapes.astype(object).prod(axis=1)  # of Python, whose numbers do not wrap
    there = os.path.getsize(os.path.join(folder, _PIXELS))
    if sum(sizes) != there:
        raise FormatError(f"{_PIXELS} has {there} bytes, {_SHAPES} says {sum(sizes)}")
    pixels = np.memmap(os.path.join(folder, _PIXELS), np.uint8, mode="r") if there else np.zeros(0, np.uint8)
    starts = np.concatenate([[0], np.cumsum(sizes.astype(np.int64))[:-1]]) if len(sizes) else np.zeros(0, np.int64)
    return Arrays(labels=labels, stack=None, pixels=pixels, shapes=shapes, starts=starts)


def write_arrays(
    folder: str, images: Iterable[tuple[np.ndarray, object]], *, names: Sequence[str] | None = None
) -> None:
    """Writes images of any size and their labels into an empty folder, one after the other.

    Args:
      folder: is made.
      images: (uint8 [H, W, 3], [H, W, 1] or [H, W]; its label, a name or a whole number).
      names: of labels that are numbers.

    Raises:
      UsageError: an image or a label is of another kind; it is named by its place.
    """
    if names is not None and len(set(names)) < len(names):
        raise UsageError(f"names of labels must be distinct, got {', '.join(names)[:200]}")
    os.makedirs(folder)
    shapes, labels = list[tuple[int, int, int]](), list[str]()
    with open(os.path.join(folder, _PIXELS), "wb") as file:
        for index, (image, label) in enumerate(images):
            array = np.asarray(image)
            shape = array.shape if array.ndim == 3 else (*array.shape, 1)
            if array.dtype != np.uint8 or len(shape) != 3 or shape[2] not in _CHANNELS or 0 in shape:
                raise UsageError(
                    f"image {index} is {_described(array)}; it must be uint8 [H, W, 3] or [H, W], 0 to 255: of floats "
                    "from 0 to 1 give (255 * images).round().astype('uint8')"
                )
            file.write(np.ascontiguousarray(array).data)
            shapes.append(shape)
            labels.append(_name(label, index, names))
    np.save(os.path.join(folder, _SHAPES), np.array(shapes, np.int64).reshape(-1, 3))
    np.save(os.path.join(folder, _LABELS), np.array(labels, np.str_))
    if names is not None:
        with open(os.path.join(folder, _NAMES), "w", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))


def _name(label: object, index: int, names: Sequence[str] | None) -> str:
    """Returns the name of an image's label."""
    value = np.asarray(label)
    if value.size == 1 and value.dtype.kind in "iuUSO":
        one = value.reshape(()).item()
        if isinstance(one, bytes):
            one = one.decode("utf-8", "replace")
        if isinstance(one, str | int):
            return _named(one, index, names)
    raise UsageError(
        f"image {index} has the label {' '.join(repr(label).split())[:80]}; it must be a name or a whole number: of "
        "one-hot labels give labels.argmax(axis=1)"
    )


def _named(label: str | int, index: int, names: Sequence[str] | None) -> str:
    if names is None:
        return str(label)
    if isinstance(label, str) and label not in names:
        raise UsageError(f"image {index} has the label {label!r}, which is none of the {len(names)} names")
    if isinstance(label, str):
        return label
    if not 0 <= label < len(names):
        raise UsageError(f"image {index} has the label {label}, and there are {len(names)} names for 0, 1, …")
    return names[label]


def _load(folder: str, name: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(os.path.join(folder, name), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # of NumPy: no .npy, or one of objects
        raise FormatError(f"{name} is no array of numbers or text that NumPy saved") from error
    return array


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"
