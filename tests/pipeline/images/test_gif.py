import io

import pytest
from PIL import Image, ImageSequence

from pipeline.images.gif import count_frames
from pipeline.images.policy import PixelPolicy, RejectCode
from tests.pipeline.images.files import accepted, photo, refused, save

REFUSE = PixelPolicy(min_side=1, animated="refuse")


def still():
    return save(photo(40, 60), "GIF")


def with_extension(data, extension):
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + extension + data[at:]


def comment(count, length=1):
    return b"\x21\xfe" + (bytes([length]) + b"x" * length) * count + b"\0"


APPLICATION = b"\x21\xff\x0bXMP DataXMP"


@pytest.mark.parametrize(
    "extension",
    [comment(1), comment(900_000), comment(200_000, 255), comment(1) * 90_000, APPLICATION + b"\1x" * 900_000 + b"\0"],
)
def test_what_programs_write_beside_the_picture_costs_nothing(extension):
    assert accepted(with_extension(still(), extension)).pixel_sha256 == accepted(still()).pixel_sha256


@pytest.mark.parametrize("extension", [comment(1_100_000), comment(1) * 110_000, b"\0" * 110_000])
def test_endless_blocks_are_refused(extension):
    assert refused(with_extension(still(), extension))[0] == RejectCode.TOO_SLOW


def test_behind_the_first_frame_nothing_is_read():
    data = still()[:-1] + comment(1_100_000) + b";"
    assert accepted(data).pixel_sha256 == accepted(still()).pixel_sha256
    assert refused(data, REFUSE)[0] == RejectCode.TOO_SLOW


def test_frames_are_counted_as_pillow_does(shared_data):
    counted = 0
    for path in sorted((shared_data / "odd_images").rglob("*.gif")):
        data = path.read_bytes()
        try:
            frames = sum(1 for _ in ImageSequence.Iterator(Image.open(io.BytesIO(data))))
        except (OSError, Image.DecompressionBombError):
            continue
        counted += 1
        assert count_frames(data) == frames, path.name
    assert counted > 30


def test_pixels_are_pillows_first_frame(shared_data):
    for path in sorted((shared_data / "odd_images").rglob("*.gif")):
        try:
            image = Image.open(path)
            plain = save(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError):
            continue
        if "transparency" not in image.info:
            found = accepted(path.read_bytes())
            assert found.channels != 3 or found.pixel_sha256 == accepted(plain).pixel_sha256, path.name
