"""Converts decoded pixels of any kind to "L" or "RGB", a strip at a time, so that intermediate copies stay small.

Transparency is laid over white, unless nobody has set it; 16-bit samples are scaled to 8; LAB becomes sRGB, and CMYK
what TensorFlow makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from pipeline.images.policy import Refused, RejectCode

# In an image's info: whether its largest sample is black. No text, which a PNG could bring along.
INVERTED = (0, 0)
_BITS_PER_SAMPLE = 258
_STRIP_PIXELS = 1 << 20


def strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yields the boxes of an image's strips from top to bottom: left, top, right, bottom."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)


def _by_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    boxes = list(strips(image))
    if len(boxes) == 1:
        return convert(image)
    out = Image.new(mode, image.size)
    for box in boxes:
        out.paste(convert(image.crop(box)), box[:2])
    return out


def _rgba(strip: Image.Image, transparent: Any) -> Image.Image:
    if transparent is not None:
        strip.info["transparency"] = transparent
    return strip.convert("RGBA")


def _is_never_opaque(image: Image.Image) -> bool:
    """Says whether alpha is 0 everywhere: then nobody has set it, and programs that ignore it show the picture."""
    transparent = image.info.get("transparency")
    return all(
        _rgba(strip, transparent).getchannel("A").getextrema()[1] == 0 for strip in map(image.crop, strips(image))
    )


def _over_white(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in ("L", "1", "LA", "La") else "RGB"
    transparent = image.info.get("transparency")
    ignore = _is_never_opaque(image)

    def convert(strip: Image.Image) -> Image.Image:
        pixels = _rgba(strip, transparent)
        flat = pixels if ignore else Image.new("RGBA", strip.size, "white")
        if not ignore:
            flat.alpha_composite(pixels)
        return flat.convert("RGB").getchannel("R") if mode == "L" else flat.convert("RGB")

    return _by_strips(image, mode, convert)


def _wide_grey(image: Image.Image, *, white: int, inverted: bool = False) -> Image.Image:
    """Converts 16-bit greyscale to 8 bits; `white` is the largest sample value. Pillow's own way clips at 255.

    Where it is `inverted`, `white` is the darkest.
    """
    transparent = image.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        wide = np.asarray(strip).astype(np.int64)
        narrow = (np.clip(wide, 0, white) * 255 + white // 2) // white
        if inverted:
            narrow = 255 - narrow
        if isinstance(transparent, int):
            narrow[wide == transparent] = 255
        return Image.fromarray(narrow.astype(np.uint8))

    return _by_strips(image, "L", convert)


def _bits(image: Image.Image) -> int:
    """Reads how many bits a sample of an "I;16" image has: TIFFs with 9 to 15 are unpacked without scaling."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
    return 16


def rgb_or_grey(image: Image.Image) -> Image.Image:
    """Converts decoded pixels.

    Raises:
      Refused: no sample value is defined to be white.
    """
    if image.mode.startswith("I;16"):
        return _wide_grey(image, white=(1 << _bits(image)) - 1, inverted=image.info.get(INVERTED, False))
    if image.mode in ("I", "F"):
        what = "32-bit" if image.mode == "I" else "floating-point"
        raise Refused(RejectCode.UNSUPPORTED, f"{what} samples: which value is white is not defined")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        return _by_strips(image, "RGB", lambda strip: ImageCms.applyTransform(strip, transform) or strip)
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _over_white(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
