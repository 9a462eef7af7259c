"""Damages photos in ways that gates are to see."""

from __future__ import annotations

import io

from PIL import Image, ImageEnhance, ImageFilter


def damaged(image: Image.Image, how: str) -> bytes:
    """Encodes a photo after what was done to it."""
    if how == "blur":
        image = image.filter(ImageFilter.GaussianBlur(2))
    if how == "dark":
        image = ImageEnhance.Brightness(image).enhance(1 / 3)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=10 if how == "jpeg10" else 90)
    return file.getvalue()
