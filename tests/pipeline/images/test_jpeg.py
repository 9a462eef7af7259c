"""Tests that damaged JPEGs are told from sound ones, whatever the decoder is made to pass over."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.images.encode import render
from pipeline.images.jpeg import decode_whole
from pipeline.images.look import inspect
from pipeline.images.pixels import decode, open_image
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from tests.pipeline.images.files import POLICY, accepted, noise, photo, record_pixels, refused, save

END = b"\xff\xd9"
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "4:4:4": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
}
MODES = ("RGB", "L", "CMYK")
DAMAGED = {RejectCode.TRUNCATED, RejectCode.CORRUPT}


def jpeg(mode="RGB", image=None, **options):
    return save((image or noise()).convert(mode), "JPEG", **options)


def scan_of(data):
    """Returns where the first scan's coded data begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + struct.unpack_from(">H", data, at + 2)[0]


def with_segment(data, marker, content):
    return data[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def with_rubbish(data, rubbish=b"rubbish"):
    """Puts it behind the first segment."""
    at = 4 + struct.unpack_from(">H", data, 4)[0]
    return data[:at] + rubbish + data[at:]


def with_odd_sampling(data):
    """Samples one component 3x1, which TurboJPEG's interface has no name for: another picture, of half the blocks."""
    at = data.index(b"\xff\xc0")
    return data[: at + 11] + b"\x31" + data[at + 12 :]


# --- damaged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_but_ended(kind, mode):
    data = jpeg(mode, **KINDS[kind])
    accepted(data)
    begin = scan_of(data)
    for part in (0.01, 0.2, 0.5, 0.9, 0.98):
        cut = data[: begin + round((len(data) - begin) * part)]
        for ended in (cut + END, cut + b"\xff" + END, cut):
            assert refused(ended)[0] in DAMAGED


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_found_whatever_size_is_wanted(kind):
    data = jpeg(image=noise(400, 600), **KINDS[kind])
    cut = data[: len(data) * 3 // 4] + END
    for max_side in (None, 500, 300, 100, 50):
        policy = PixelPolicy(min_side=1, max_side=max_side)
        accepted(data, policy)
        assert refused(cut, policy)[0] in DAMAGED


@pytest.mark.parametrize("kind", KINDS)
def test_most_lost_sectors_are_found(kind, shared_data):
    generator = random.Random(0)
    found = 0
    photos = sorted((shared_data / "flowers").rglob("*.jpg"))[:30]
    for path in photos:
        image = Image.open(path)
        data = save(image, "JPEG", **KINDS[kind])
        at = generator.randrange(max(scan_of(data), len(data) // 4) + 512, len(data) - 1024) // 512 * 512
        found += isinstance(inspect(data[:at] + bytes(512) + data[at + 512 :], POLICY), Reject)  # unless the codes fit
    assert found >= 0.7 * len(photos)


def test_remarks_in_the_header_do_not_hide_what_is_missing():
    data = jpeg()
    adobe = with_segment(data.replace(b"JFIF", b"JFXX", 1), 0xEE, b"Adobe\0\x64\0\0\0\0\7")
    version = data.replace(b"JFIF\0\1", b"JFIF\0\7", 1)
    rubbish = with_rubbish(data)
    profile = with_segment(data, 0xE2, b"ICC_PROFILE\0\2\1abc")
    for sound in (adobe, version, rubbish, profile):
        accepted(sound)
        assert refused(sound[: len(sound) // 2] + END)[0] == RejectCode.TRUNCATED


def test_a_sampling_without_a_name():
    data = with_odd_sampling(jpeg(image=noise(96, 144), subsampling=0))
    assert decode_whole(data, channels=3) is None
    assert accepted(data).keeps_bytes
    for part in (0.1, 0.15, 0.2):
        cut = data[: round(len(data) * part)] + END
        assert refused(cut)[0] == RejectCode.TRUNCATED
        assert refused(cut, PixelPolicy(min_side=1, max_side=50))[0] == RejectCode.TRUNCATED


def test_the_rest_filled_with_zeros():
    """As programs leave it that make room for a file before they fetch it."""
    data = jpeg()
    for filled in (
        data[: len(data) // 2].ljust(len(data), b"\0"),
        data[: len(data) // 2].ljust(len(data), b"\0") + END,
    ):
        assert refused(filled)[0] in DAMAGED


@pytest.mark.parametrize("sectors", [1, 8])
def test_lost_sectors_among_coded_data(shared_data, sectors):
    """A disk or a transfer that loses a sector gives zeros, which mostly are codes like others."""
    random = np.random.default_rng(0)
    size, lost = 512 * sectors, 0
    for path in sorted((shared_data / "flowers").rglob("*.jpg"))[::8]:
        data = bytearray(path.read_bytes())
        places = range(-(-(data.rfind(b"\xff\xda") + 16) // size) * size, len(data) - size - 2, size)
        if places:
            at = int(random.choice(places))
            data[at : at + size] = bytes(size)
            assert refused(bytes(data))[0] in DAMAGED, path
            lost += 1
    assert lost > 80


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_zeros_that_are_codes_are_no_lost_sectors(options):
    """Pictures of one colour are coded as zeros."""
    kept = 0
    for side in range(300, 1_500, 40):
        data = jpeg(image=Image.new("RGB", (side, side), "teal"), **options)
        kept += bytes(512) in data
        accepted(data)
    assert not options or kept > 5


def test_padding_in_metadata_is_no_lost_sector():
    accepted(with_segment(jpeg(), 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0" + bytes(4_096) + b"end"))


def test_field_case_jpeg_cut_but_ended(shared_data):
    folder = shared_data / "field_cases/data/jpeg_cut_but_ended"
    found = {path.name for path in folder.rglob("*.jpg") if isinstance(inspect(path.read_bytes(), POLICY), Reject)}
    assert found == {"cut_half_eoi.jpg", "cut_90_eoi.jpg", "sector_zero_middle.jpg"}


# --- sound ------------------------------------------------------------------------------------------------------------


def test_what_lacks_only_its_end_marker_is_encoded_anew():
    for mode in MODES:
        for kind in KINDS.values():
            data = jpeg(mode, image=photo(), **kind)
            for short in (data[:-2], data[:-1], data[:-2] + bytes(999)):
                facts = accepted(short)
                assert not facts.keeps_bytes
                assert facts.pixel_sha256 == accepted(data).pixel_sha256
                assert render(short, POLICY).endswith(END)


@pytest.mark.parametrize("mode", MODES)
def test_harmless_remarks(mode):
    """A camera's stray bytes, padding, things behind the end: the picture is the same."""
    data = jpeg(mode, image=photo())
    odd = {
        "behind": data + b"x",
        "far behind": data + bytes(5000),
        "stray": data[:-2] + b"\x12" + END,
        "some stray": data[:-2] + b"\x12\x34\x56\x78\x9a\xbc\xde\xf0\x12\x34\x56\x78" + END,
        "padding": data[:-2] + bytes(2000) + END,
        "fill bytes": data[:-2] + b"\xff" * 2000 + END[1:],
        "version": data.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
        "rubbish": with_rubbish(data),
    }
    for name, file in odd.items():
        assert accepted(file).pixel_sha256 == accepted(data).pixel_sha256, name


def test_a_stray_byte_in_every_restart_interval():
    """As some cameras leave it."""
    data = jpeg(image=photo(), restart_marker_rows=1)
    begin = scan_of(data)
    body = data[begin:]
    for number in range(8):
        body = body.replace(bytes([0xFF, 0xD0 + number]), bytes([0x12, 0xFF, 0xD0 + number]))
    assert accepted(data[:begin] + body).pixel_sha256 == accepted(data).pixel_sha256


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(90, 120), (401, 599), (1000, 640)])
def test_pixels_are_pillows(mode, size):
    data = jpeg(mode, image=photo(*size))
    for max_side in (None, 300, 100):
        policy = PixelPolicy(min_side=1, max_side=max_side)
        found = np.asarray(decode(open_image(data, policy), policy)[0])
        reference = Image.open(io.BytesIO(data))
        if max_side and max(size) > max_side:
            scale = max_side / max(size)
            reference.draft(reference.mode, (round(size[1] * scale), round(size[0] * scale)))
        if mode == "CMYK":
            reference = reference.convert("RGB")
        assert np.array_equal(found, np.asarray(reference))


# --- unsupported, and what takes too long -----------------------------------------------------------------------------


def with_frame(data, marker, *, bits=8, height=None, components=None):
    at = data.index(b"\xff\xc0")
    frame = bytearray(data[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]])
    length = len(frame)
    frame[1], frame[4] = marker, bits
    if height is not None:
        frame[5:7] = struct.pack(">H", height)
    if components is not None:
        frame[9] = components
        frame = (frame + frame[-3:] * 2)[: 10 + 3 * components]
        frame[2:4] = struct.pack(">H", len(frame) - 2)
    return data[:at] + bytes(frame) + data[at + length :]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({"marker": 0xC1, "bits": 12}, "12 bits"),
        ({"marker": 0xC2, "bits": 12}, "12 bits"),
        ({"marker": 0xC3}, "lossless"),
        ({"marker": 0xC3, "bits": 16}, "lossless"),
        ({"marker": 0xC5}, "hierarchical"),
        ({"marker": 0xC7}, "lossless"),
        ({"marker": 0xC9}, "arithmetic"),
        ({"marker": 0xCA}, "arithmetic"),
        ({"marker": 0xCE}, "hierarchical"),
        ({"marker": 0xF7}, "JPEG-LS"),
        ({"marker": 0xC0, "components": 2}, "2 components"),
        ({"marker": 0xC0, "components": 5}, "5 components"),
        ({"marker": 0xC0, "height": 0}, "height"),
    ],
)
def test_kinds_that_few_decoders_read_are_unsupported(frame, why):
    code, detail = refused(with_frame(jpeg(), **frame))
    assert code == RejectCode.UNSUPPORTED
    assert why in detail


def test_endless_segments_scans_and_rubbish_are_refused():
    data = jpeg()
    assert refused(data[:2] + b"\xff\xfe\0\2" * 110_000 + data[2:])[0] == RejectCode.TOO_SLOW
    assert refused(data[:2] + b"\xff" * 210_000 + data[2:])[0] == RejectCode.TOO_SLOW
    assert refused(with_rubbish(data, bytes(110_000)))[0] == RejectCode.TOO_SLOW
    large = jpeg("L", image=Image.new("L", (2000, 2000)))
    empty = large[large.index(b"\xff\xda") : scan_of(large)]
    assert refused(large[:-2] + empty * 2000 + END)[0] == RejectCode.TOO_MANY_PIXELS


def test_a_side_that_no_jpeg_has_is_too_large():
    code, detail = refused(save(Image.new("L", (65_501, 8))))
    assert code == RejectCode.TOO_LARGE
    assert "65501x8" in detail
    assert "65500" in detail
    assert record_pixels(save(Image.new("L", (8, 65_500)))).shape == (65_500, 8)
    assert accepted(save(Image.new("L", (70_000, 90))), PixelPolicy(max_side=1000, min_side=1)).width == 1000
    tall = jpeg("L", image=Image.new("L", (65_500, 8)))
    at = tall.index(b"\xff\xc0")
    code, _ = refused(tall[: at + 7] + struct.pack(">H", 65_535) + tall[at + 9 :], PixelPolicy(max_side=90, min_side=1))
    assert code == RejectCode.TOO_LARGE
    with pytest.raises(ValueError, match="too_large"):
        render(save(Image.new("L", (65_501, 8))), POLICY)
