"""Makes of an image what a model sees, if the builder would accept it; most photos are decoded once for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images.encode import encode_anew
from pipeline.images.jpeg import decode_plain
from pipeline.images.model_pixels import ORIENTATION, pixels, reduction, resized
from pipeline.images.pixels import conforms, decode, open_image, surely_conforms
from pipeline.images.policy import PixelPolicy, Refused, Reject, RejectCode

# Of a smaller side, libjpeg's reductions by 2, 4 and 8 are as large as some that lie between them.
_MIN_REDUCED = 16


def see(data: bytes, policy: PixelPolicy, *, spec: Mapping[str, Any]) -> tuple[np.ndarray, bytes] | Reject:
    """Returns what a model sees of an image, and the record's image, or why the builder refuses it.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.
      spec: how the model sees images, see `model_pixels.pixels`.

    Returns:
      float32 `[height, width, 3]`, 0 to 255: `model_pixels.pixels` of the record's image, to the bit; and that, but for
      `PixelPolicy.strip_metadata`. Or a `Reject`: bad data raise nothing.
    """
    record, found = data, None
    if frame := surely_conforms(data, policy):
        found = _decoded(data, (frame.width, frame.height), spec, grey=frame.channels == 1)
    if found is None:
        try:
            opened = open_image(data, policy)
            if not conforms(opened, policy):
                record = encode_anew(opened, policy)
            elif frame or not _is_upright(opened) or (found := _of_opened(opened, data, spec)) is None:
                decode(opened, policy)  # for what it refuses
        except Refused as refused:
            return refused.reject
    if found is not None:
        return resized(found, spec), record
    try:
        return pixels(record, spec), record
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError is Pillow's for some broken PNGs
        return Reject(code=RejectCode.UNSUPPORTED, detail=f"Pillow cannot decode it: {error}")


def _is_upright(image: Image.Image) -> bool:
    """Says whether nothing turns the image, nor means to in a way that nobody knows."""
    return image.getexif().get(ORIENTATION, 1) == 1


def _of_opened(image: Image.Image, data: bytes, spec: Mapping[str, Any]) -> np.ndarray | None:
    return _decoded(data, image.size, spec, grey=image.mode == "L")


def _decoded(data: bytes, size: tuple[int, int], spec: Mapping[str, Any], *, grey: bool) -> np.ndarray | None:
    """Decodes a conforming JPEG, reduced as the model sees it: uint8 [h, w, 3]; None where it takes a closer look."""
    ratio = reduction(size[::-1], spec)
    if ratio > 1 and min(size) < _MIN_REDUCED:
        return None
    found = decode_plain(data, grey=grey, shrunk_to=(-(-size[0] // ratio), -(-size[1] // ratio)) if ratio > 1 else None)
    return np.repeat(found[..., np.newaxis], 3, axis=2) if found is not None and grey else found
