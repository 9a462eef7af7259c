"""Tests PNGs whose data end early, and containers cut off in other formats, byte by byte."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images.policy import RejectCode
from tests.pipeline.images.files import accepted, noise, photo, png_chunk, refused, save

ROWS = b"".join(b"\0" + row.tobytes() for row in np.asarray(noise()))
STREAM = zlib.compress(ROWS)
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(stream, *, width=120, height=90, bits=8, colours=2, interlaced=0, piece=1 << 20, extra=b"", end=True):
    header = struct.pack(">LLBBBBB", width, height, bits, colours, 0, 0, interlaced)
    content = b"".join(png_chunk(b"IDAT", stream[at : at + piece]) for at in range(0, len(stream), piece))
    tail = png_chunk(b"IEND", b"") if end else b""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + content + tail


def test_whole_ones_are_accepted():
    for file in (png(STREAM), png(STREAM, piece=100), png(STREAM, end=False), png(STREAM + b"rest")):
        assert accepted(file).pixel_sha256 == accepted(png(STREAM)).pixel_sha256


@pytest.mark.parametrize("part", [0.01, 0.5, 0.95, 0.995])
@pytest.mark.parametrize("end", [True, False])
def test_data_that_end_early_are_refused(part, end):
    stream, rows = STREAM[: round(len(STREAM) * part)], zlib.compress(ROWS[: round(len(ROWS) * part)])
    for file in (
        png(stream, end=end),
        png(stream, piece=500, end=end),
        png(rows, end=end),
        png(rows, piece=9, end=end),
    ):
        assert refused(file)[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)


def test_a_lost_chunk_is_refused():
    pieces = [png_chunk(b"IDAT", STREAM[at : at + 500]) for at in range(0, len(STREAM), 500)]
    whole = png(STREAM, piece=500)
    for lost in (0, 1, len(pieces) // 2, len(pieces) - 1):
        assert refused(whole.replace(pieces[lost], b""))[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)


@pytest.mark.parametrize(
    ("bits", "colours"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 3), (8, 4), (16, 6)]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (13, 29)])
def test_rows_are_counted_in_every_layout(bits, colours, size):
    """Zeros everywhere, so that all depends on the count: the right number of bytes by the standard's formulas."""
    (width, height), channels = size, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    palette = png_chunk(b"PLTE", bytes(6)) if colours == 3 else b""
    row = 1 + -(-width * channels * bits // 8)
    adam7 = 0
    for x0, y0, dx, dy in ADAM7:
        columns, rows = len(range(x0, width, dx)), len(range(y0, height, dy))
        adam7 += rows * (1 + -(-columns * channels * bits // 8)) if columns else 0
    for interlaced, count in ((0, row * height), (1, adam7)):
        options = {"width": width, "height": height, "bits": bits, "colours": colours, "extra": palette}
        accepted(png(zlib.compress(bytes(count)), interlaced=interlaced, **options))
        code, _ = refused(png(zlib.compress(bytes(count - 1)), interlaced=interlaced, **options))
        assert code == RejectCode.TRUNCATED


def test_black_pictures_are_accepted():
    for mode in ("1", "L", "P", "RGB", "I;16"):
        accepted(save(Image.new(mode, (50, 40))))


def test_endless_chunks_are_refused():
    for chunk in (png_chunk(b"IDAT", b""), png_chunk(b"tEXt", b"a\0b"), png_chunk(b"abCd", b"")):
        assert refused(png(STREAM, extra=chunk * 110_000))[0] == RejectCode.TOO_SLOW


# --- other formats ----------------------------------------------------------------------------------------------------


def webp_of(data):
    """Mends the lengths of a cut WebP."""
    data = data[: len(data) // 2 * 2]
    return data[:4] + struct.pack("<L", len(data) - 8) + data[8:16] + struct.pack("<L", len(data) - 20) + data[20:]


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_cut_with_mended_lengths(lossless):
    data = save(noise(), "WEBP", lossless=lossless)
    accepted(webp_of(data))
    for part in (0.3, 0.6, 0.9):
        assert refused(webp_of(data[: round(len(data) * part)]))[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)
    chunks = data + b"ABCD\0\0\0\0" * 110_000
    assert refused(chunks)[0] == RejectCode.TOO_SLOW


def test_gif_cut_but_ended():
    data = save(noise(), "GIF")
    for part in (0.3, 0.6, 0.9):
        for tail in (b"", b"\0;", b";"):
            assert refused(data[: round(len(data) * part)] + tail)[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)
    accepted(data[:-1])


def test_bmp_cut_with_a_mended_length():
    data = save(noise(), "BMP")
    for part in (0.3, 0.6, 0.9):
        cut = data[: round(len(data) * part)]
        assert refused(cut[:2] + struct.pack("<L", len(cut)) + cut[6:])[0] == RejectCode.TRUNCATED


def test_jpeg2000_of_too_many_components_or_boxes():
    data = save(photo(), "JPEG2000")
    at = data.index(b"\xff\x4f\xff\x51")
    for file in (data[: at + 40] + b"\0\5" + data[at + 42 :], data[at : at + 40] + b"\0\5" + data[at + 42 :]):
        code, detail = refused(file)
        assert code == RejectCode.UNSUPPORTED
        assert "5 components" in detail
    accepted(data[at:])
    boxes = struct.pack(">L", 8) + b"free"
    accepted(data[:32] + boxes * 10 + data[32:])
    assert refused(data[:32] + boxes * 110_000 + data[32:])[0] == RejectCode.TOO_SLOW
