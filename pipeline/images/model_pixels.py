"""Turns an image file into the pixels that the model beside this file takes: needs Pillow and NumPy, and nothing else.

    spec = json.load(open("preprocess.json"))
    pixels(open("photo.jpg", "rb").read(), spec)    # float32 [height, width, 3], 0 to 255

It is what the model was evaluated with: `pipeline.decode.decode_and_resize`. Photos are turned upright, large ones
reduced by 2, 4 or 8 while they are decoded, and the rest is bilinear, with half-pixel centres and no antialiasing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FILL = 127.0  # grey, beside an image that is padded
ORIENTATION, _ON_ITS_SIDE = 0x0112, 5  # EXIF


def pixels(data: bytes, spec: Mapping[str, Any]) -> np.ndarray:
    """Decodes an image and resizes what the model sees of it.

    Args:
      data: a file of any format that Pillow reads.
      spec: "height" and "width" of the result, "resize" ("stretch", "pad" or "crop") and "eval_centre", a share of the
        shorter side (0: all that "resize" shows).

    Returns:
      float32 `[height, width, 3]`, RGB, 0 to 255.

    Raises:
      OSError: it is no image that Pillow reads.
    """
    with Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
        ratio = reduction(image.size if orientation >= _ON_ITS_SIDE else image.size[::-1], spec)
        is_jpeg = image.format in ("JPEG", "MPO")  # MPO: as phones write them, with a second picture
        if is_jpeg and ratio > 1:
            # Not whole pixels: there may be fewer than the ratio.
            image.draft("RGB", (image.width / ratio, image.height / ratio))  # type: ignore[arg-type]
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        found = np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    return resized(found if is_jpeg else _average(found, ratio), spec)


def reduction(shape: Sequence[int], spec: Mapping[str, Any]) -> int:
    """Returns by how much an image of (height, width), upright, is reduced while it is decoded: 1, 2, 4 or 8."""
    sides, output = np.array(shape), np.array([spec["height"], spec["width"]])
    return max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or _factor(sides, output, spec) >= ratio)


def _factor(shape: np.ndarray, output: np.ndarray, spec: Mapping[str, Any]) -> np.float32:
    """Counts source pixels per output pixel, of the axis that has fewer; where it pads, of the one that has more."""
    sides = shape.astype(np.float32) / output.astype(np.float32)
    if spec["resize"] == "pad":
        return sides.max()
    return sides.min() * np.float32(spec["eval_centre"] or 1)


def _average(image: np.ndarray, ratio: int) -> np.ndarray:
    """Averages squares of pixels; incomplete ones, at both ends, over what they hold."""
    for axis in (0, 1) if ratio > 1 else ():
        sides = image.shape[axis]
        before = (-sides % ratio) // 2
        starts = np.maximum(np.arange(0, sides + before, ratio) - before, 0)
        counts = np.diff([*starts, sides]).astype(np.float32)
        image = np.add.reduceat(image.astype(np.float32), starts, axis=axis) / counts.reshape(
            (-1, 1, 1) if axis == 0 else (1, -1, 1)
        )
    return image


def resized(image: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Resizes what the model sees of an image: uint8 or float32 [h, w, 3], upright, reduced → float32, as `pixels`."""
    output = np.array([spec["height"], spec["width"]])
    shape, centre = np.array(image.shape[:2]), spec["eval_centre"]
    if spec["resize"] == "stretch" and not centre:
        return _resize(image, output)
    size = np.round(output.astype(np.float32) * _factor(shape, output, spec)).astype(int)
    if spec["resize"] != "pad":
        size = np.clip(size, 1, shape)
        top, left = (shape - size) // 2
        return _resize(image[top : top + size[0], left : left + size[1]], output)
    size = np.maximum(size, shape)
    beside = ((size - shape) * output + size) // (2 * size)  # output pixels before and behind, rounded
    first = np.minimum(beside, output - 1)
    last = np.clip(output - beside, first + 1, output)
    result = np.full((*output, 3), FILL, np.float32)
    result[first[0] : last[0], first[1] : last[1]] = _resize(image, last - first)
    return result


def _resize(image: np.ndarray, output: np.ndarray) -> np.ndarray:
    result = image.reshape(len(image), -1)  # rows of samples: NumPy gathers single ones faster than threes
    for axis in (1, 0):
        source = image.shape[axis]
        at = (np.arange(output[axis], dtype=np.float32) + np.float32(0.5)) * np.float32(
            source / output[axis]
        ) - np.float32(0.5)
        low = np.maximum(np.floor(at), 0).astype(int)
        high = np.minimum(np.ceil(at).astype(int), source - 1)
        share = (at - np.floor(at))[:, np.newaxis]
        if axis == 1:
            low, high = ((3 * places[:, np.newaxis] + np.arange(3)).ravel() for places in (low, high))
            share = np.repeat(share.T, 3, axis=1)
        here, there = (np.take(result, places, axis).astype(np.float32, copy=False) for places in (low, high))
        there -= here
        there *= share
        there += here
        result = there
    return result.reshape(*output, 3)
