import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images import remarks
from pipeline.images.facts import ImageFacts
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from tests.pipeline.images.files import POLICY, accepted, noise, record_pixels, refused, save, tags_block, tiff

_LOOK = """
import pickle, sys
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy
found = [inspect(data, PixelPolicy(min_side=1)) for data in pickle.load(open(sys.argv[1], "rb"))]
pickle.dump(found, open(sys.argv[2], "wb"))
"""


def drawing(seed: int, compression: str) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.random((30, 40)) < 0.3, np.ones((8, 8), bool))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF", compression=compression)
    return out.getvalue()


def damaged(data: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    copy = bytearray(data)
    for _ in range(3):
        copy[rng.randrange(8, len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def looks(files: list[bytes], folder: pathlib.Path, *, fill: int) -> list[object]:
    """Looks at the files in a process in whose fresh memory every byte is `fill`."""
    (folder / "files").write_bytes(pickle.dumps(files))
    subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder / "files"), str(folder / "looks")],
        check=True,
        stderr=subprocess.DEVNULL,  # libtiff's own complaints
        env={**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.perturb={fill ^ 0xFF}:glibc.malloc.tcache_count=0"},
    )
    return pickle.loads((folder / "looks").read_bytes())


@pytest.mark.skipif(sys.platform != "linux", reason="the fill of fresh memory is glibc's")
def test_damaged_tiffs_look_the_same_to_every_process(tmp_path):
    files = [
        damaged(drawing(n, c), n) for c in ("group3", "group4", "tiff_lzw", "tiff_adobe_deflate") for n in range(25)
    ]
    first, second = (looks(files, tmp_path, fill=fill) for fill in (0x5A, 0xA5))
    assert first == second
    assert sum(isinstance(found, Reject) for found in first) > 25


@pytest.mark.skipif(sys.platform != "linux", reason="the fill of fresh memory is glibc's")
def test_odd_tiffs_look_the_same_to_every_process(shared_data, tmp_path):
    paths = sorted((shared_data / "odd_images").rglob("*.tif*"))
    files = [path.read_bytes() for path in paths]
    first, second = (looks(files, tmp_path, fill=fill) for fill in (0x5A, 0xA5))
    differing = [path.name for path, one, other in zip(paths, first, second, strict=True) if one != other]
    assert len(files) > 50
    assert differing == []


def test_a_tiff_with_missing_parts_is_refused():
    """The codes end early, by the mark of their end, of which libtiff says nothing."""
    end = b"\x00\x10\x01"
    files = [drawing(n, "group4") for n in range(100)]
    cut = [data[: len(data) // 2] + end + data[len(data) // 2 + len(end) :] for data in files]
    found = [inspect(data, PixelPolicy()) for data in cut]
    missing = [reject for reject in found if isinstance(reject, Reject) and "missing" in reject.detail]
    assert missing
    assert {reject.code for reject in missing} == {RejectCode.CORRUPT}


def test_wrong_codes_are_named_whatever_was_decoded_before():
    files = [damaged(drawing(n, c), n) for c in ("group3", "group4") for n in range(40)]
    first = [inspect(data, PixelPolicy()) for data in files]
    assert any(isinstance(found, Reject) and "Bad code word" in found.detail for found in first)
    order = list(range(len(files))) * 3
    random.Random(0).shuffle(order)
    for number in order:
        assert inspect(files[number], PixelPolicy()) == first[number]


def test_what_libraries_write_is_heard_and_kept_from_standard_error(capfd):
    with remarks.heard() as heard:
        os.write(2, b"from C\n")
    os.write(2, b"after it\n")
    assert heard.text == "from C\n"
    assert capfd.readouterr().err == "after it\n"


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_whole_tiffs_are_accepted(compression):
    for seed in range(5):
        assert isinstance(inspect(drawing(seed, compression), PixelPolicy()), ImageFacts)


# --- which value is white ---------------------------------------------------------------------------------------------


def packed(samples, bits, order):
    """Packs samples as TIFF does: 16 bits in the file's order, fewer from the highest bit on, rows in whole bytes."""
    if bits == 16:
        return samples.astype(order + "u2").tobytes()
    rows = ((samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(samples), -1).astype(np.uint8)
    return np.packbits(rows, axis=1).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_the_largest_sample_is_white_or_black(bits, photometric, compression, order):
    largest = (1 << bits) - 1
    samples = np.round(np.linspace(0, largest, 64 * 64)).astype(np.int64).reshape(64, 64)
    if bits < 8:
        samples = samples.repeat(4, 0).repeat(4, 1)  # for JPEG to keep
    rows = packed(samples, bits, order)
    rows = zlib.compress(rows) if compression == 8 else rows
    data = tiff(rows, *samples.shape[::-1], bits=bits, photometric=photometric, compression=compression, order=order)
    if bits == 12 and order == ">":
        code, detail = refused(data)
        assert code == RejectCode.UNSUPPORTED
        assert "12 bits" in detail
        return
    expected = samples * 255 / largest
    assert np.abs(record_pixels(data) - (expected if photometric else 255 - expected)).mean() < 1.5


# --- unsupported is not corrupt ---------------------------------------------------------------------------------------

SAMPLES = bytes(16 * 16 * 32)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"form": 2}, "signed samples of 8 bits"),
        ({"form": 2, "bits": 16}, "signed samples of 16 bits"),
        ({"form": 2, "bits": 32}, "signed samples of 32 bits"),
        ({"form": 3, "bits": 16}, "floating-point samples of 16 bits"),
        ({"form": 3, "bits": 32}, "floating-point samples of 32 bits"),
        ({"form": 3, "bits": 64}, "floating-point samples of 64 bits"),
        ({"form": 3, "bits": 32, "photometric": 2, "samples": 3}, "floating-point samples of 32 bits"),
        ({"form": 5, "bits": 64}, "complex samples"),
        ({"bits": 32}, "32"),
        ({"bits": 3}, "3 bits"),
        ({"samples": 2}, "2 samples a pixel"),
        ({"samples": 5}, "5 samples a pixel"),
        ({"samples": 5, "bits": 16}, "5 samples a pixel"),
        ({"samples": 12}, "12 samples a pixel"),
        ({"photometric": 32803}, "colour filters"),
        ({"photometric": 34892, "samples": 3, "bits": 16}, "linear samples"),
        ({"photometric": 32845, "samples": 3, "bits": 16}, "photometric interpretation 32845"),
        ({"compression": 34712}, "compression 34712"),
        ({"compression": 34661}, "compression 34661"),
        ({"compression": 50001}, "WebP"),
        ({"more": [(50706, 1, 4, 0x0401)]}, "raw file"),
        ({"more": [(254, 4, 1, 1), (330, 4, 1, 8)]}, "raw file"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_kinds_that_we_do_not_read_are_unsupported(what, why, order):
    code, detail = refused(tiff(SAMPLES, 16, 16, order=order, **what))
    assert code == RejectCode.UNSUPPORTED
    assert why in detail


def test_field_case_unsupported_not_corrupt(shared_data):
    folder = shared_data / "field_cases/data/unsupported_not_corrupt/a"
    for name, why in (("five_bands.tif", "5 samples a pixel"), ("int16.tif", "signed samples of 16 bits")):
        code, detail = refused((folder / name).read_bytes())
        assert code == RejectCode.UNSUPPORTED
        assert why in detail


@pytest.mark.parametrize("what", [{"bits": 0}, {"bits": 200}, {"samples": 0}])
def test_what_makes_no_sense_is_corrupt(what):
    assert refused(tiff(SAMPLES, 16, 16, **what))[0] == RejectCode.CORRUPT
    assert refused(tags_block([(257, 3, 1, 16), (262, 3, 1, 1)]))[0] == RejectCode.CORRUPT


# --- JPEGs inside -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("strip_bytes", [0, 4000])
def test_damaged_jpegs_inside_are_found(mode, strip_bytes):
    image = noise(96, 128)
    options = {} if not strip_bytes else {"strip_size": strip_bytes}
    data = save(image.convert(mode), "TIFF", compression="jpeg", **options)
    accepted(data, POLICY)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    begin = scans[-1]
    end = data.index(b"\xff\xd9", begin)
    middle = (begin + end) // 2
    cut = data[:middle] + b"\xff\xd9" + bytes(end - middle) + data[end + 2 :]
    assert refused(cut)[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_strips_that_end_early_are_refused(compression):
    """The counts are mended, so that only the coded data themselves are too short."""
    data = save(noise(), "TIFF", compression=compression)
    image = Image.open(io.BytesIO(data))
    start, length = image.tag_v2[273][0], image.tag_v2[279][0]
    half = data[: start + length // 2]
    moved = tags_block(
        [
            *((256, 3, 1, 120), (257, 3, 1, 90), (258, 3, 1, 8), (259, 3, 1, image.tag_v2[259])),
            *((262, 3, 1, 1), (273, 4, 1, None), (277, 3, 1, 1), (278, 3, 1, 270), (279, 4, 1, length // 2)),
        ],
        half[start:],
    ).replace(struct.pack("<HHLL", 257, 3, 1, 90), struct.pack("<HHLL", 257, 3, 1, 270))
    assert refused(moved)[0] in (RejectCode.TRUNCATED, RejectCode.CORRUPT)
