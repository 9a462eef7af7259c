"""Tests the pixel policy against independent decoders (TensorFlow's, NumPy arithmetic), on real and on odd files."""

import collections
import io
import json
import os
import pathlib
import pickle
import random
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images.encode import render
from pipeline.images.facts import ImageFacts
from pipeline.images.jpeg import decode_plain
from pipeline.images.look import inspect, look, make_facts
from pipeline.images.pixels import conforms, decode, open_image
from pipeline.images.policy import PixelPolicy, Refused, Reject, RejectCode

POLICY = PixelPolicy(min_side=1)

# Runs in a process of its own, so that a crash, a hang or a ballooning decoder is seen.
WORKER = """
import json, pathlib, sys, time
from pipeline.images.encode import render
from pipeline.images.look import look, make_facts
from pipeline.images.policy import PixelPolicy, Reject
out = pathlib.Path(sys.argv[1])
policy = PixelPolicy(min_side=1)
results = {}
for number, path in enumerate(sys.stdin.read().split("\\n")):
    data = pathlib.Path(path).read_bytes()
    start = time.monotonic()
    seen = look(data, policy)
    if not isinstance(seen, Reject):
        facts = make_facts([seen])[0]
        record = render(data, policy)
        (out / str(number)).write_bytes(record)
        result = {"height": facts.height, "width": facts.width, "channels": facts.channels, "keeps": facts.keeps_bytes}
        result["same"] = record == data
    else:
        result = {"code": seen.code.value, "detail": seen.detail}
    results[path] = {"number": number, "seconds": time.monotonic() - start, **result}
# Not ru_maxrss, which a process inherits from the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
results["peak"] = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps(results))
"""


def save(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photo(height=90, width=120, mode="RGB"):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 127 + 90 * np.sin(x / 9) * np.cos(y / 7)], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def record_pixels(data, policy=POLICY):
    return np.asarray(Image.open(io.BytesIO(render(data, policy))))


def facts_of(data, policy=POLICY):
    facts = inspect(data, policy)
    assert isinstance(facts, ImageFacts), facts
    return facts


def reject_of(data, policy=POLICY):
    reject = inspect(data, policy)
    assert isinstance(reject, Reject), reject
    with pytest.raises(ValueError, match=reject.code.value):
        render(data, policy)
    return reject.code


# --- every odd file, against TensorFlow -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(shared_data, tmp_path_factory):
    """Looks at the odd files in another process: (results by path, folder of records, peak memory in bytes)."""
    out = tmp_path_factory.mktemp("records")
    paths = sorted(str(p) for p in (shared_data / "odd_images").rglob("*") if p.is_file())
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(out)],
        input="\n".join(paths),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).resolve().parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    return results, out, results.pop("peak")


@pytest.mark.slow
def test_no_odd_file_takes_long_or_much_memory(odd):
    results, _, peak = odd
    assert len(results) > 700
    slowest = max(results, key=lambda path: results[path]["seconds"])
    assert results[slowest]["seconds"] < 5, slowest
    assert peak < 300 << 20


def upright(pixels, orientation):
    """Applies EXIF orientation in NumPy, by the standard's table: which side the 0th row and column are."""
    flips = {2: (1, -1, 0), 3: (-1, -1, 0), 4: (-1, 1, 0), 5: (1, 1, 1), 6: (-1, 1, 1), 7: (-1, -1, 1), 8: (1, -1, 1)}
    down, right, swap = flips.get(orientation, (1, 1, 0))
    pixels = pixels[::down, ::right]
    return pixels.swapaxes(0, 1) if swap else pixels


def over_white(pixels):
    """Renders float [h, w, 1..4], 0..255, over white, so that no alpha is left; nowhere opaque is everywhere opaque."""
    if pixels.shape[-1] in (1, 3):
        return pixels
    alpha = pixels[..., -1:] / 255 if pixels[..., -1].any() else 1
    return pixels[..., :-1] * alpha + 255 * (1 - alpha)


def tensorflow_rendering(path, data):
    """Decodes a source file by TensorFlow's own decoders; None where they cannot or mean something else."""
    import tensorflow as tf

    image = Image.open(path)
    orientation = image.getexif().get(0x0112, 1)
    try:
        if image.format in ("JPEG", "MPO"):
            data += b"\xff\xd9"  # one of them has none
            pixels = tf.io.decode_jpeg(data, channels=1 if image.mode == "L" else 3).numpy()
        elif image.format == "PNG" and not getattr(image, "is_animated", False):
            channels = 4 if "transparency" in image.info else 0
            pixels = tf.io.decode_png(data, channels=channels, dtype=tf.uint16).numpy() / 257
        elif image.format == "BMP" and data[28:30] == b"\x18\0":  # TensorFlow takes palette numbers for grey
            pixels = tf.io.decode_bmp(data).numpy()
        elif image.format == "GIF" and "transparency" not in image.info:
            pixels = tf.io.decode_gif(data).numpy()[0]
        elif image.format == "WEBP" and not getattr(image, "is_animated", False):
            pixels = tf.io.decode_image(data, channels=4).numpy().reshape(image.height, image.width, 4)
        else:
            return None
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        return None
    return over_white(upright(pixels.astype(np.float64), orientation))


def pillow_rendering(path):
    """Decodes formats that TensorFlow does not read: by Pillow's decoder, but with our own arithmetic after it."""
    image = Image.open(path)
    image.load()
    bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
    orientation = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image, np.float64)[..., None] * 255 / (2**bits - 1)
    elif image.mode == "LAB":
        return None  # test_lab_is_converted
    elif image.mode in ("L", "LA"):
        pixels = np.asarray(image.convert("LA"), np.float64)
    else:
        pixels = np.asarray(image.convert("RGBA"), np.float64)
    return over_white(upright(pixels, orientation))


def luma_of(pixels):
    return pixels @ (0.299, 0.587, 0.114) if pixels.shape[-1] == 3 else pixels[..., 0]


@pytest.mark.slow
def test_every_accepted_odd_file_decodes_in_tensorflow_to_the_same_picture(odd):
    import tensorflow as tf

    results, out, _ = odd
    problems, by_tensorflow, accepted = [], 0, 0
    for path, result in results.items():
        if "code" in result:
            continue
        accepted += 1
        name = os.path.basename(path)
        record = (out / str(result["number"])).read_bytes()
        pixels = tf.io.decode_jpeg(record).numpy().astype(np.float64)
        if pixels.shape != (result["height"], result["width"], result["channels"]):
            problems.append(f"{name}: {pixels.shape} is not what the facts say: {result}")
            continue
        if result["keeps"] != result["same"]:
            problems.append(f"{name}: keeps_bytes is {result['keeps']}, but the record says otherwise")
        expected = tensorflow_rendering(path, pathlib.Path(path).read_bytes())
        by_tensorflow += expected is not None
        if expected is None:
            expected = pillow_rendering(path)
        if expected is None:
            continue
        if expected.shape[:2] != pixels.shape[:2]:
            problems.append(f"{name}: {pixels.shape}, but the reference is {expected.shape}")
            continue
        # These drawings are full of coloured edges, which JPEG smears: so the reference goes through JPEG once, too.
        if not result["keeps"]:
            if result["channels"] == 1:
                expected = expected[..., :1]
            encoded = tf.io.encode_jpeg(np.rint(expected).astype(np.uint8), quality=95)
            expected = tf.io.decode_jpeg(encoded).numpy().astype(np.float64)
        luma = np.abs(luma_of(pixels) - luma_of(expected)).mean()
        colour = np.abs(pixels - expected).mean()
        if luma > 1 or colour > 2:
            problems.append(f"{name}: luma off by {luma:.1f}, colours by {colour:.1f} of 255")
    assert not problems, "\n".join(problems)
    assert accepted > 600
    assert by_tensorflow > 430


def test_damaged_jpegs_are_refused_or_decode_in_tensorflow_to_the_same_picture(shared_data):
    """Kept bytes are the risk: Pillow may read a damaged file that TensorFlow refuses."""
    import tensorflow as tf

    original = (shared_data / "odd_images/pillow/hopper.jpg").read_bytes()
    originals = [original, save(Image.open(io.BytesIO(original)), "JPEG", progressive=True)]
    random = np.random.default_rng(0)
    kept = 0
    for number in range(600):
        data = bytearray(originals[number % 2])
        for at in random.integers(2, len(data), size=random.integers(1, 4)):
            data[at] = random.integers(256)
        if random.random() < 0.2:
            data = data[: random.integers(100, len(data))]
        facts = inspect(bytes(data), POLICY)
        if isinstance(facts, Reject):
            continue
        kept += facts.keeps_bytes
        record = render(bytes(data), POLICY)
        pixels = tf.io.decode_jpeg(record, dct_method="INTEGER_ACCURATE").numpy().astype(np.float64)
        ours = np.asarray(Image.open(io.BytesIO(record))).reshape(pixels.shape)
        assert pixels.shape == (facts.height, facts.width, facts.channels)
        assert np.abs(pixels - ours).mean() < 1
    assert kept > 200


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_files_cut_anywhere_are_refused(form):
    data = save(photo(), form)
    facts_of(data)
    codes = {reject_of(data[: round(len(data) * part)]) for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)}
    assert codes <= {RejectCode.TRUNCATED, RejectCode.CORRUPT, RejectCode.NOT_AN_IMAGE}
    assert reject_of(data[:1]) == RejectCode.NOT_AN_IMAGE


def test_a_jpeg_without_its_end_marker_is_not_kept():
    data = save(photo(), "JPEG")
    assert data.endswith(b"\xff\xd9")
    facts = inspect(data[:-2], POLICY)
    assert isinstance(facts, Reject) or not facts.keeps_bytes


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", RejectCode.NOT_AN_IMAGE, "empty"),
        (b"hello world", RejectCode.NOT_AN_IMAGE, "hello"),
        (b"\n<!DOCTYPE html><html>", RejectCode.NOT_AN_IMAGE, "HTML"),
        (b"%PDF-1.7 ...", RejectCode.UNSUPPORTED, "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", RejectCode.UNSUPPORTED, "PostScript"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""></svg>', RejectCode.UNSUPPORTED, "SVG"),
        (b"\x89PNG\r\n\x1a\nrubbish", RejectCode.CORRUPT, "PNG"),
    ],
)
def test_what_is_no_image_is_named(data, code, text):
    reject = inspect(data, POLICY)
    assert isinstance(reject, Reject)
    assert reject.code == code
    assert text in reject.detail
    assert "0x" not in reject.detail  # a memory address would change rejects.jsonl from build to build


def png_of_size(width, height):
    """Makes a PNG of a few kilobytes that declares any size: one colour, compressed."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded():
    data = png_of_size(20_000, 20_000)
    assert len(data) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reject_of(data) == RejectCode.TOO_MANY_PIXELS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10 << 10
    assert reject_of(png_of_size(8_000, 7_000)) == RejectCode.TOO_MANY_PIXELS
    facts_of(png_of_size(1_000, 900))


def test_a_progressive_jpeg_with_endless_scans_is_refused():
    data = save(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    facts_of(data)
    last_scan = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last_scan:-2] * 2000 + b"\xff\xd9"
    assert reject_of(bomb) == RejectCode.TOO_MANY_PIXELS


def test_limits():
    data = save(photo(90, 120), "JPEG")
    assert reject_of(data, PixelPolicy(max_bytes=len(data) - 1)) == RejectCode.TOO_MANY_BYTES
    assert reject_of(data, PixelPolicy(max_pixels=90 * 120 - 1)) == RejectCode.TOO_MANY_PIXELS
    assert reject_of(data, PixelPolicy(min_side=91)) == RejectCode.TOO_SMALL
    assert reject_of(save(photo(8, 300)), PixelPolicy(max_side=100)) == RejectCode.TOO_SMALL
    facts_of(data, PixelPolicy(max_bytes=len(data), max_pixels=90 * 120, min_side=90))


@pytest.mark.parametrize(
    "values",
    [
        {"max_pixels": 0},
        {"max_pixels": 10**9},
        {"max_side": 4},
        {"animated": "all"},
        {"jpeg_quality": 0},
        {"subsampling": ""},
    ],
)
def test_senseless_policies_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        PixelPolicy(**values)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts_or_it_is_refused(form):
    frames = [photo(), Image.new("RGB", (120, 90), "black")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = save(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert reject_of(data, PixelPolicy(animated="refuse")) == RejectCode.ANIMATED
    assert np.abs(record_pixels(data).astype(int) - np.asarray(frames[0])).mean() < 8
    facts_of(save(frames[0], form, **options), PixelPolicy(animated="refuse"))


# --- what a record looks like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_conforming_jpegs_keep_their_bytes(mode, progressive):
    data = save(photo(mode=mode), "JPEG", progressive=progressive, quality=40)
    facts = facts_of(data)
    assert facts.keeps_bytes
    assert render(data, POLICY) == data
    assert facts.channels == len(mode)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_jpegs_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(photo(64, 96), "JPEG", exif=exif, quality=95)
    facts = facts_of(data)
    assert not facts.keeps_bytes
    expected = upright(np.asarray(Image.open(io.BytesIO(data))).astype(int), orientation)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert np.abs(record_pixels(data) - expected).mean() < 3
    assert Image.open(io.BytesIO(render(data, POLICY))).getexif().get(0x0112, 1) == 1


def test_a_cmyk_jpeg_becomes_rgb_as_in_tensorflow(shared_data):
    import tensorflow as tf

    data = (shared_data / "odd_images/pillow/pil_sample_cmyk.jpg").read_bytes()
    assert not facts_of(data).keeps_bytes
    pixels = record_pixels(data, PixelPolicy(subsampling="4:4:4"))
    assert np.abs(pixels.astype(float) - tf.io.decode_jpeg(data, channels=3).numpy()).mean() < 3


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(form):
    wide = (np.linspace(0, 65535, 64 * 64).reshape(64, 64)).astype(np.uint16)
    data = save(Image.fromarray(wide), form)
    assert facts_of(data).channels == 1
    assert np.abs(record_pixels(data) - wide / 257).max() < 4


def test_samples_without_a_defined_white_are_refused():
    assert reject_of(save(Image.new("F", (20, 20), 0.5), "TIFF")) == RejectCode.UNSUPPORTED
    assert reject_of(save(Image.new("I", (20, 20), 7), "TIFF")) == RejectCode.UNSUPPORTED


def test_lab_is_converted():
    lab = np.full((32, 32, 3), (138, 81 + 128, 70 + 128), np.uint8)  # L* 54.1, a* 81, b* 70: sRGB red
    data = save(Image.merge("LAB", [Image.fromarray(lab[..., i]) for i in range(3)]), "TIFF")
    assert np.abs(record_pixels(data).mean((0, 1)) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    image = photo(mode=mode[:-1])
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    expected = over_white(np.asarray(image, np.float64))
    pixels = record_pixels(save(image)).reshape(expected.shape)
    assert np.abs(pixels - expected).mean() < 4
    assert facts_of(save(image)).channels == len(mode) - 1


def test_heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(photo()).save(out, quality=95)
    assert facts_of(out.getvalue()).format == "HEIF"
    assert np.abs(record_pixels(out.getvalue()).astype(int) - np.asarray(photo())).mean() < 6


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("height", "width", "expected"), [(600, 900, (133, 200)), (900, 600, (200, 133)), (150, 200, (150, 200))]
)
def test_max_side_shrinks_and_keeps_the_aspect_ratio(form, height, width, expected):
    image = photo(height, width)
    policy = PixelPolicy(max_side=200)
    facts = facts_of(save(image, form), policy)
    pixels = record_pixels(save(image, form), policy)
    assert (facts.height, facts.width) == pixels.shape[:2] == expected
    assert facts.keeps_bytes == (form == "JPEG" and (height, width) == expected)
    reference = np.asarray(image.resize(expected[::-1], Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(pixels - reference).mean() < 5


def test_subsampling_is_a_choice():
    data = save(photo())
    sizes = [len(render(data, PixelPolicy(subsampling=choice))) for choice in ("4:2:0", "4:4:4")]
    assert sizes[0] < sizes[1]


def test_numbers_keep_their_meaning_but_large_profiles_go():
    small, large = b"\0" * 500, b"\0" * 5000
    assert Image.open(io.BytesIO(render(save(photo(), icc_profile=small), POLICY))).info["icc_profile"] == small
    assert "icc_profile" not in Image.open(io.BytesIO(render(save(photo(), icc_profile=large), POLICY))).info


# --- facts ------------------------------------------------------------------------------------------------------------


def test_equal_pixels_have_equal_digests_whatever_the_format():
    jpeg = save(photo(), "JPEG")
    decoded = Image.open(io.BytesIO(jpeg))
    files = [jpeg, save(decoded), save(decoded, "BMP"), save(decoded, "WEBP", lossless=True), save(decoded, "TIFF")]
    facts = [facts_of(data) for data in files]
    assert len({f.pixel_sha256 for f in facts}) == 1
    assert len({f.sha256 for f in facts}) == len(files)
    assert {f.perceptual_hash for f in facts} == {facts[0].perceptual_hash}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1, "progressive": True},
        {"subsampling": 2, "optimize": True, "quality": 20},
        {"restart_marker_blocks": 3, "quality": 100},
    ],
)
@pytest.mark.parametrize(("height", "width"), [(61, 83), (1, 9), (300, 217)])
def test_plain_jpegs_have_the_pixels_that_pillow_reads(mode, options, height, width):
    data = save(photo(height, width, mode=mode), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as reference:
        pixels = decode_plain(data, grey=mode == "L")
        assert np.array_equal(pixels, np.asarray(reference))


def test_what_the_fast_decoder_takes_pillow_reads_as_well():
    """Damaged files: either it declines, or the file has the same pixels for both."""
    generator = random.Random(0)
    whole = [save(photo(90, 120), "JPEG", progressive=progressive) for progressive in (False, True)]
    outcomes = collections.Counter()
    for number in range(600):
        data = bytearray(whole[number % 2])
        if number % 3:
            data[generator.randrange(2, len(data))] = generator.randrange(256)
        else:
            del data[generator.randrange(2, len(data)) :][: generator.randrange(400)]
        try:
            opened = open_image(bytes(data), POLICY)
        except Refused:
            continue
        if not conforms(opened, POLICY):
            continue
        pixels = decode_plain(bytes(data), grey=opened.mode == "L")
        outcomes[pixels is None] += 1
        if pixels is not None:
            assert np.array_equal(pixels, np.asarray(decode(opened, POLICY)[0]))
    assert min(outcomes[True], outcomes[False]) > 50


def test_one_pixel_makes_another_digest():
    image = photo(500, 700)
    other = image.copy()
    other.putpixel((351, 251), tuple(255 - c for c in other.getpixel((351, 251))))
    assert facts_of(save(image)).pixel_sha256 != facts_of(save(other)).pixel_sha256
    grey = photo(mode="L")
    assert facts_of(save(grey)).pixel_sha256 != facts_of(save(grey.convert("RGB"))).pixel_sha256


def test_facts_are_small_picklable_and_repeatable():
    data = save(photo(), "WEBP")
    facts = facts_of(data)
    assert pickle.loads(pickle.dumps(facts)) == facts == facts_of(data)
    assert len(pickle.dumps(facts)) < 700
    assert render(data, POLICY) == render(data, POLICY)


def test_facts_do_not_depend_on_what_they_are_made_together_with():
    images = [
        photo(h, w, mode) for h, w, mode in ((90, 120, "RGB"), (31, 33, "RGB"), (400, 300, "L"), (16, 700, "RGB"))
    ]
    looks = [look(save(image), POLICY) for image in (*images, Image.new("RGB", (200, 200), "red"))]
    assert make_facts(looks) == [make_facts([one])[0] for one in looks]
    assert make_facts(looks[::-1]) == make_facts(looks)[::-1]
    assert make_facts([]) == []


def test_brightness_and_sharpness_tell_dark_and_blurred_images():
    sharp = Image.effect_noise((200, 200), 90)
    assert facts_of(save(sharp)).sharpness > 5 * facts_of(save(sharp.resize((20, 20)).resize((200, 200)))).sharpness
    assert facts_of(save(Image.new("RGB", (50, 50), "white"))).brightness == 1
    assert facts_of(save(Image.new("RGB", (50, 50), "black"))).brightness == 0


def test_no_tensorflow_is_imported():
    code = "import sys, pipeline.images.facts, beam_jobs.duplicates; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
