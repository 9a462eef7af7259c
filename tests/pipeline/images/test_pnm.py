"""Tests PBM, PGM and PPM against NumPy."""

import numpy as np
import pytest

from pipeline.images.pixels import decode, open_image
from pipeline.images.policy import RejectCode
from tests.pipeline.images.files import POLICY, accepted, refused

RNG = np.random.default_rng(0)


def pixels_of(data):
    return np.asarray(decode(open_image(data, POLICY), POLICY)[0])


def file_of(samples, form, white):
    height, width = samples.shape[:2]
    head = f"P{form} {width} {height}" + ("" if form in (1, 4) else f" {white}") + "\n"
    if form == 4:
        return head.encode() + np.packbits(samples.astype(bool), axis=1).tobytes()
    if form in (5, 6):
        return head.encode() + samples.astype(">u2" if white > 255 else "u1").tobytes()
    space = "" if form == 1 else " "
    return (head + "\n".join(space.join(map(str, row.reshape(-1))) for row in samples)).encode()


@pytest.mark.parametrize("white", [1, 3, 100, 254, 255, 256, 1000, 4095, 65534, 65535])
@pytest.mark.parametrize("form", [2, 3, 5, 6])
def test_samples_are_scaled(form, white):
    samples = RNG.integers(0, white + 1, (37, 53, 3) if form in (3, 6) else (37, 53))
    found = pixels_of(file_of(samples, form, white))
    assert found.shape == samples.shape
    assert np.abs(found - samples * 255 / white).max() <= 0.5


@pytest.mark.parametrize("form", [1, 4])
def test_bitmaps_are_black_where_they_are_1(form):
    samples = RNG.integers(0, 2, (37, 53))
    assert np.array_equal(pixels_of(file_of(samples, form, 1)), 255 - 255 * samples)


def test_plain_text_larger_than_a_piece():
    samples = RNG.integers(0, 256, (700, 600, 3))
    data = file_of(samples, 3, 255)
    assert len(data) > 4 << 20
    assert np.array_equal(pixels_of(data), samples)
    bits = RNG.integers(0, 2, (1200, 1000))
    assert np.array_equal(pixels_of(file_of(bits, 1, 1)), 255 - 255 * bits)


def test_comments_are_skipped():
    samples = RNG.integers(0, 10, (5, 4))
    body = b"# made by a program\n" + b" # 7 7\r".join(str(v).encode() for v in samples.reshape(-1)) + b"\n# end"
    data = b"P2 # width follows\n#\n 4#height\n5\n9\n" + body
    assert np.abs(pixels_of(data) - samples * 255 / 9).max() <= 0.5


@pytest.mark.parametrize(
    "data",
    [
        b"P3 9 9 255\n" + b"#\n" * 110_000 + b"1 " * 243,
        b"P3\n" + b"#\n" * 110_000 + b"9 9 255\n" + b"1 " * 243,
        b"P6\n#" + b"x" * 110_000 + b"\n9 9 255\n" + bytes(243),
        b"P6" + b" " * 110_000 + b"9 9 255\n" + bytes(243),
    ],
)
def test_endless_comments_are_refused(data):
    assert refused(data)[0] in (RejectCode.TOO_SLOW, RejectCode.CORRUPT)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"P5 4 4 254 abc", RejectCode.TRUNCATED),
        (b"P6 4 4 1000 abcdefg", RejectCode.TRUNCATED),
        (b"P3 4 4 255 1 2 3", RejectCode.TRUNCATED),
        (b"P1 4 4 1 0 1", RejectCode.TRUNCATED),
        (b"P2 1 2 9 1 10", RejectCode.CORRUPT),
        (b"P2 1 2 9 1 -1", RejectCode.CORRUPT),
        (b"P2 1 2 9 1 1.5", RejectCode.CORRUPT),
        (b"P2 1 2 9 1 99999999999999999999999", RejectCode.CORRUPT),
        (b"P2 1 2 9 " + b"1" * (3 << 20), RejectCode.CORRUPT),
        (b"P1 2 1 1 2", RejectCode.CORRUPT),
        (b"P5 4 4 0 " + bytes(16), RejectCode.CORRUPT),
        (b"P5 4 4 65536 " + bytes(32), RejectCode.CORRUPT),
        (b"P5 4 x 255 " + bytes(16), RejectCode.CORRUPT),
        (b"P5 4", RejectCode.CORRUPT),
        (b"P5 99999 99999 254 " + bytes(99), RejectCode.TOO_MANY_PIXELS),
        (b"P3 99999 99999 255 1 2 3", RejectCode.TOO_MANY_PIXELS),
    ],
)
def test_what_makes_no_sense_is_refused(data, code):
    assert refused(data)[0] == code


@pytest.mark.parametrize("head", [b"Pf 9 9 -1.0", b"PyRGBA 9 9 254", b"PyP 9 9 254", b"P0CMYK 9 9 254", b"P7 9"])
def test_relatives_are_unsupported(head):
    assert refused(head + b"\n" + bytes(400))[0] == RejectCode.UNSUPPORTED


def test_of_several_pictures_the_first_counts():
    data = file_of(RNG.integers(0, 255, (5, 4)), 5, 254)
    assert accepted(data + data).pixel_sha256 == accepted(data).pixel_sha256
