"""Tests that tags which claim gigabytes are refused wherever they stand, and honest ones are not."""

import io
import struct
import zlib

import pytest
from PIL import Image

from pipeline.images.policy import PixelPolicy, RejectCode
from tests.pipeline.images.files import (
    accepted,
    noise,
    photo,
    png_chunk,
    record_pixels,
    refused,
    save,
    tags_block,
    tiff,
)

SHARED = 1 << 15
BOMB = tags_block([(40_000 + number, 7, SHARED, None) for number in range(1000)], bytes(SHARED))


def in_jpeg(block):
    data = save(photo(), "JPEG")
    parts = (b"Exif\0\0" + block[at : at + 60_000] for at in range(0, len(block), 60_000))
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in parts) + data[2:]


def in_png(block):
    data = save(photo())
    return data[:33] + png_chunk(b"eXIf", block) + data[33:]


def in_png_text(block, kind):
    text = b"\nexif\n%8d\n" % len(block) + (b"Exif\0\0" + block).hex().encode()
    name = b"Raw profile type exif\0"
    content = {b"tEXt": text, b"zTXt": b"\0" + zlib.compress(text), b"iTXt": b"\1\0\0\0" + zlib.compress(text)}[kind]
    data = save(photo())
    return data[:33] + png_chunk(kind, name + content) + data[33:]


CARRIERS = {
    "jpeg": in_jpeg,
    "png": in_png,
    "png tEXt": lambda block: in_png_text(block, b"tEXt"),
    "png zTXt": lambda block: in_png_text(block, b"zTXt"),
    "png iTXt": lambda block: in_png_text(block, b"iTXt"),
    "webp": lambda block: save(photo(), "WEBP", exif=b"Exif\0\0" + block),
    "avif": lambda block: save(photo(), "AVIF", exif=block),
}


def turned(block_of=tags_block):
    return block_of([(274, 3, 1, 6), (37500, 7, 5000, None)], bytes(5000))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_exif_that_claims_gigabytes_is_refused_in_every_format(carrier):
    code, detail = refused(CARRIERS[carrier](BOMB))
    assert code == RejectCode.TOO_MUCH_MEMORY
    assert "tags claim" in detail


@pytest.mark.parametrize("carrier", CARRIERS)
def test_honest_exif_turns_the_image(carrier):
    facts = accepted(CARRIERS[carrier](turned()))
    assert (facts.height, facts.width) == (120, 90)


def test_exif_in_heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(photo())
    for block, ok in ((turned(), True), (BOMB, False)):
        heif.info["exif"] = b"Exif\0\0" + block
        out = io.BytesIO()
        heif.save(out, quality=50)
        if ok:
            accepted(out.getvalue())
        else:
            assert refused(out.getvalue())[0] == RejectCode.TOO_MUCH_MEMORY


def test_decoys_before_the_exif_block():
    data = CARRIERS["avif"](turned())
    assert refused(data + b"II*\0" * 99)[0] == RejectCode.TOO_SLOW


@pytest.mark.parametrize("head", [b"MM*\0", b"II\0*"])
def test_headers_that_only_pillow_reads(head):
    order = "<" if head.startswith(b"II") else ">"
    tags = [(40_000 + number, 7, SHARED, None) for number in range(1000)]
    data = tags_block([*IMAGE, *tags], bytes(SHARED), order=order)
    assert refused(head + data[4:])[0] == RejectCode.TOO_MUCH_MEMORY


def test_exif_split_over_segments_is_seen_as_one():
    block = tags_block([(40_000 + number, 7, 300_000, None) for number in range(50)], bytes(300_000))
    assert refused(in_jpeg(block))[0] == RejectCode.TOO_MUCH_MEMORY


def test_directories_of_other_pictures_in_a_jpeg():
    data, block = save(photo(), "JPEG"), b"MPF\0" + BOMB[: 1 << 16][:60_000]
    data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert refused(data)[0] == RejectCode.TOO_MUCH_MEMORY


IMAGE = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, None)]
IMAGE += [(277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256)]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_tiffs_whose_tags_share_a_block(big, same):
    tags = [(40_000 if same else 40_000 + number, 7, SHARED, None) for number in range(1000)]
    assert refused(tags_block([*IMAGE, *tags], bytes(SHARED), big=big))[0] == RejectCode.TOO_MUCH_MEMORY
    accepted(tags_block([*IMAGE, tags[0]], bytes(SHARED), big=big))


def test_tiffs_with_endless_directories_or_values():
    tags = [(40_000, 7, 1, 0)] * 70_000
    assert refused(tags_block([*IMAGE, *tags], bytes(999), big=True))[0] == RejectCode.TOO_SLOW
    resolution = (282, 5, 1 << 19, None)
    assert refused(tags_block([*IMAGE, resolution], bytes(1 << 22)))[0] == RejectCode.TOO_SLOW


@pytest.mark.parametrize("tag", [34665, 34853])
def test_directories_below_count_and_circles_end(tag):
    """The EXIF and GPS directories are read, too; one that points at itself or at the first is read once."""
    below = 8 + 2 + 12 * 2 + 4
    inner = b"".join(struct.pack("<HHLL", 40_000 + number, 7, SHARED, below) for number in range(1000))
    inner = struct.pack("<H", 1000) + inner + bytes(4) + bytes(SHARED)
    assert refused(in_jpeg(tags_block([(274, 3, 1, 6), (tag, 4, 1, None)], inner)))[0] == RejectCode.TOO_MUCH_MEMORY
    assert accepted(in_jpeg(tags_block([(274, 3, 1, 6), (tag, 4, 1, 8)]))).height == 120


def test_many_pages_cost_nothing():
    pages, page = 20_000, struct.pack("<H", len(IMAGE))
    size = 2 + 12 * len(IMAGE) + 4
    entries = b"".join(struct.pack("<HHLL", *(8 if value is None else value for value in entry)) for entry in IMAGE)
    chain = (page + entries + struct.pack("<L", 8 + size * number) for number in range(1, pages))
    data = b"II*\0" + struct.pack("<L", 8) + b"".join(chain) + page + entries + bytes(4)
    accepted(data)
    assert refused(data, PixelPolicy(animated="refuse"))[0] == RejectCode.ANIMATED


@pytest.mark.parametrize("damage", range(40))
def test_damaged_exif_does_not_cost_a_photo(damage):
    """Pillow ignores what it does not understand, and so do we."""
    exif = Image.Exif()
    exif[271], exif[0x0131], exif[274] = "a maker", "a program " * 20, 1
    data = bytearray(save(photo(), "JPEG", exif=exif))
    begin = data.index(b"Exif")
    data[begin + 6 + damage % 60] ^= 1 << damage % 8
    data[begin + 14 + damage] = 0xFF
    accepted(bytes(data))


@pytest.mark.parametrize("tag", [34665, 34853])
@pytest.mark.parametrize("place", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_directories_beyond_all_addresses_do_not_cost_a_photo(tag, place):
    for order in "<>":
        block = tags_block([(tag, 16, 1, place)], order=order, big=True)
        for file in (in_jpeg(block), save(photo())[:33] + png_chunk(b"eXIf", block) + save(photo())[33:]):
            assert accepted(file).width == 120
    assert refused(b"II+\0\x08\0\0\0" + b"\xff" * 16)[0] is RejectCode.CORRUPT


def test_pixels_that_look_like_tags_are_pixels():
    pixels = bytes(noise(64, 64).convert("L").tobytes())
    data = tiff(b"II*\0\x08\0\0\0" + BOMB[8:2000] + pixels, 64, 64)
    assert record_pixels(data).shape == (64, 64)
