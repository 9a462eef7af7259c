"""Tests alpha that nobody has set."""

import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.images.colours import rgb_or_grey
from tests.pipeline.images.files import accepted, photo, png_chunk, record_pixels, save


def with_alpha(value, mode="RGBA", size=(90, 120)):
    image = photo(*size, mode=mode[:-1])
    image.putalpha(Image.new("L", image.size, value))
    return image


@pytest.mark.parametrize(
    ("form", "mode"),
    [(form, "RGBA") for form in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000")] + [("PNG", "LA"), ("TIFF", "LA")],
)
def test_alpha_that_is_0_everywhere_is_ignored(form, mode):
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 95}}.get(form, {})
    data = save(with_alpha(0, mode), form, **options)
    expected = np.asarray(photo(mode=mode[:-1])).astype(int)
    assert accepted(data).channels == len(mode) - 1
    assert np.abs(record_pixels(data) - expected).mean() < 4


def bmp_of_32_bits(alpha):
    """Makes a BMP with a V4 header and an alpha mask, as screenshots have it."""
    pixels = np.asarray(photo())[::-1, :, ::-1]
    rows = np.dstack([pixels, np.full(pixels.shape[:2], alpha, np.uint8)]).tobytes()
    masks = struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<LllHHLLllLL", 108, 120, 90, 1, 32, 3, len(rows), 2835, 2835, 0, 0) + masks
    header = header.ljust(108, b"\0")
    return b"BM" + struct.pack("<LHHL", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


@pytest.mark.parametrize("alpha", [0, 255])
def test_screenshots_of_32_bits(alpha):
    assert np.abs(record_pixels(bmp_of_32_bits(alpha)) - np.asarray(photo()).astype(int)).mean() < 3


def test_a_palette_of_alphas_that_are_0():
    data = save(photo().convert("P"))
    at = data.index(b"IDAT") - 4
    clear = data[:at] + png_chunk(b"tRNS", bytes(256)) + data[at:]
    assert accepted(clear).pixel_sha256 == accepted(save(photo().convert("P").convert("RGB"))).pixel_sha256


def test_one_opaque_pixel_makes_the_rest_transparent():
    image = with_alpha(0)
    image.putpixel((119, 89), (0, 0, 0, 255))
    pixels = record_pixels(save(image))
    assert (pixels[:80] > 250).all()


def test_every_strip_is_looked_at():
    image = with_alpha(0, size=(1500, 1500))
    assert np.array_equal(np.asarray(rgb_or_grey(image)), np.asarray(image)[..., :3])
    image.putpixel((3, 1499), (0, 0, 0, 255))
    flat = np.asarray(rgb_or_grey(image))
    assert (flat[1499, 3] == 0).all()
    assert (flat[:1499] == 255).all()


def test_field_case_bmp32_alpha_zero(shared_data):
    path = shared_data / "field_cases/data/bmp32_alpha_zero/screens/screen.bmp"
    data = path.read_bytes()
    offset, width, height = struct.unpack_from("<L", data, 10)[0], *struct.unpack_from("<ll", data, 18)
    stored = np.frombuffer(data, np.uint8, width * abs(height) * 4, offset).reshape(-1, 4)
    assert not stored[:, 3].any()
    assert abs(record_pixels(data).mean() - stored[:, :3].mean()) < 2
