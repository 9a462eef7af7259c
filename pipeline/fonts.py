"""Finds a font that has the characters of a text, because a picture with boxes in place of letters tells nothing."""

from __future__ import annotations

import functools
import pathlib

import matplotlib
from matplotlib import font_manager, ft2font
from PIL import ImageFont

_OWN = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Latin, Greek, Cyrillic and more


@functools.cache
def _characters(file: str) -> frozenset[int]:
    try:
        return frozenset(ft2font.FT2Font(file).get_charmap())
    except (RuntimeError, OSError):  # a bitmap font, or no font at all
        return frozenset()


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted(font_manager.findSystemFonts()))


def font_for(text: str, *, size: int) -> ImageFont.FreeTypeFont | None:
    """Returns a font that has all of the text's characters: matplotlib's, else an installed one; None if none has."""
    wanted = {ord(character) for character in text if not character.isspace()}
    if wanted <= _characters(str(_OWN)):
        return ImageFont.truetype(_OWN, size)
    file = next((file for file in _installed() if wanted <= _characters(file)), None)
    return ImageFont.truetype(file, size) if file else None
