"""Tests that metadata go out of JPEGs and the picture stays to the byte, against Pillow's reading of both."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.images.encode import render
from pipeline.images.look import inspect
from pipeline.images.metadata import has_position, without_metadata
from pipeline.images.policy import PixelPolicy

XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf exif:GPSLatitude='52,31.2N'/></x:xmpmeta>"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def segment(marker, data):
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def exif(*, gps=True, orientation=1, order="<"):
    tags = Image.Exif()
    tags.endian = order
    tags[0x0112], tags[0x010F] = orientation, "a camera's maker"
    if gps:
        tags.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)})
    return tags.tobytes()


def photo(mode="RGB", *, extra=b"", tail=b"", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    data = out.getvalue()
    return data[:2] + extra + data[2:] + tail


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)))


METADATA = {
    "EXIF": {"exif": exif()},
    "XMP": {"extra": segment(0xE1, XMP)},
    "IPTC": {"extra": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0cBerlin, home")},
    "a comment": {"comment": b"at home"},
    "a maker's": {"extra": segment(0xE7, b"maker's own: home")},
    "further pictures": {"extra": segment(0xE2, b"MPF\0II*\0home"), "tail": photo(exif=exif())},
    "a tail": {"tail": b"home" * 100},
    "fill bytes": {"extra": b"\xff\xff" + segment(0xFE, b"home")},
    "an EXIF that looks like an end": {"extra": segment(0xE1, b"Exif\0\0\xff\xd9\xff\xda\0\x02home")},
}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"icc_profile": PROFILE}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_go_and_the_picture_stays(name, mode, options):
    plain, full = photo(mode, **options), photo(mode, **options, **METADATA[name])
    assert full != plain
    assert without_metadata(full) == plain == without_metadata(plain)
    assert np.array_equal(pixels_of(full), pixels_of(plain))
    left = Image.open(io.BytesIO(without_metadata(full)))
    assert not left.getexif()
    assert left.info.get("icc_profile") == options.get("icc_profile")


def test_cmyk_keeps_what_says_how_it_is_coded():
    full = photo("CMYK", exif=exif())
    assert np.array_equal(pixels_of(without_metadata(full)), pixels_of(full))
    assert b"Adobe" in without_metadata(full)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (photo(exif=exif()), True),
        (photo(exif=exif(order=">")), True),
        (photo(extra=segment(0xE1, XMP)), True),
        (photo(exif=exif(gps=False)), False),
        (photo(), False),
        (photo(comment=b"GPSLatitude"), False),
        (photo(extra=segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")), False),
        (photo(extra=segment(0xE1, b"Exif\0\0")), False),
        (b"", False),
        (b"\x89PNG\r\n", False),
    ],
)
def test_positions_are_found(data, expected):
    assert has_position(data) is expected
    if expected:
        assert not has_position(without_metadata(data))


def test_damage_is_an_error_and_never_another_one():
    whole = photo(exif=exif(), progressive=True)
    for cut in range(len(whole)):
        with pytest.raises(ValueError, match="no whole JPEG"):
            without_metadata(whole[:cut])
        has_position(whole[:cut])
    chance = np.random.default_rng(0)
    for _ in range(2_000):
        raw = bytearray(whole)
        raw[int(chance.integers(0, 700))] = int(chance.integers(0, 256))
        has_position(bytes(raw))


def test_records_lose_them_only_where_it_is_asked_for():
    data = photo(exif=exif(), tail=b"x")
    assert render(data, PixelPolicy()) == data
    policy = PixelPolicy(strip_metadata=True)
    assert render(data, policy) == photo()
    turned = photo(exif=exif(orientation=6))
    assert not has_position(render(turned, policy))
    assert Image.open(io.BytesIO(render(turned, policy))).size == (48, 64)
    # What is known of an image, its id first, is of its file.
    assert inspect(data, policy) == inspect(data, PixelPolicy())
