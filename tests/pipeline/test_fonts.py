import logging
import pathlib

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont

from pipeline import fonts
from pipeline.contact_sheet import contact_sheet
from pipeline.fonts import font_for

_FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_NOBODY_HAS = "\U000f1234"  # of a private use area


def test_usual_alphabets_need_no_installed_font(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    for text in ("dog", "Köter", "собака", "σκύλος", "two words", ""):
        assert pathlib.Path(font_for(text, size=10).path) == _FONTS / "DejaVuSans.ttf"
    assert font_for(_NOBODY_HAS, size=10) is None


def test_a_font_that_has_the_characters_is_found_among_the_installed(monkeypatch):
    other = _FONTS / "STIXGeneral.ttf"
    own = TTFont(_FONTS / "DejaVuSans.ttf").getBestCmap().keys()
    only_there = next(chr(c) for c in sorted(TTFont(other).getBestCmap().keys() - own) if chr(c).isprintable())
    monkeypatch.setattr(fonts, "_installed", lambda: (__file__, str(_FONTS / "DejaVuSerif.ttf"), str(other)))
    assert pathlib.Path(font_for(f"a{only_there}", size=10).path) == other


def test_a_label_that_no_font_can_write_is_numbered_and_said(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    pixels = np.full((3, 1, 16, 16, 3), 128, np.uint8)
    with caplog.at_level(logging.WARNING, logger="absl"):
        found = contact_sheet(pixels, [["dog"], [f"{_NOBODY_HAS}a"], [f"{_NOBODY_HAS}b"]])
    (record,) = caplog.records
    assert f"(1) {_NOBODY_HAS}a, (2) {_NOBODY_HAS}b" in record.getMessage()
    expected = contact_sheet(pixels, [["dog"], ["(1)"], ["(2)"]])
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
