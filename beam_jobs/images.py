"""Bytes → facts or a reject, and bytes → the record's JPEG. Free of TensorFlow.

Every record is a JPEG, RGB or greyscale, upright, within the size limits. A JPEG that is all that already keeps its
bytes; everything else is decoded (decoding.py says how colours and transparency come out) and encoded again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math

import google_crc32c
import numpy as np
from PIL import Image

from beam_jobs import perceptual, turbo
from beam_jobs.decoding import conforms, decode, open_image
from beam_jobs.policy import PixelPolicy, Refused, Reject, RejectCode

__all__ = ["Examined", "ImageFacts", "PixelPolicy", "Reject", "RejectCode", "examine", "inspect", "render"]

# A larger colour profile (scanners' and printers' tables) or the usual sRGB one is not worth its bytes in every record.
_MAX_PROFILE_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the builder knows of an accepted image; small, picklable, without pixels.

    Attributes:
      sha256: hex, of the source bytes.
      pixel_sha256: hex, equal for images whose decoded upright pixels are equal, whatever the format (under a max_side:
        whose pixels are equal as far as they were decoded). See `_pixel_digest`.
      height: of the record's image, upright, pixels.
      width: of the record's image, upright, pixels.
      channels: 1 or 3.
      format: Pillow's name of the source format.
      keeps_bytes: whether the record's image is the source file as it stands.
      perceptual_hash: 72 bytes, or none for a next to uniform image; see perceptual.py.
      brightness: mean luma, 0 to 1.
      sharpness: root mean square of the Laplacian of the luma (0 to 1) at 64x64; low means blurred or empty.
    """

    sha256: str
    pixel_sha256: str
    height: int
    width: int
    channels: int
    format: str
    keeps_bytes: bool
    perceptual_hash: bytes
    brightness: float
    sharpness: float


def _luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 [SIDE, SIDE]: the mean luma of four points in each cell. Points, where there are enough: averages over all
    pixels would cost as much as the rest of the inspection, and low frequencies average over all points anyway."""
    points = 2 * perceptual.SIDE
    if min(pixels.shape[:2]) < points:
        sample = Image.fromarray(pixels).resize((points, points), Image.Resampling.BILINEAR)
    else:
        rows, columns = ((2 * np.arange(points) + 1) * side // (2 * points) for side in pixels.shape[:2])
        sample = Image.fromarray(pixels[rows].take(columns, axis=1))
    return np.asarray(sample.convert("L").reduce(2))


def _pixel_digest(pixels: np.ndarray, luma: np.ndarray) -> str:
    """sha256 over the mode, the size, 4,096 mean lumas and a CRC-32C of all pixels.

    sha256 of all pixels would take a fifth of the time that decoding takes. For this digest to err, images must agree
    in size and in every mean, that is look alike, and then collide in the CRC, by a chance of 2^-32.
    """
    height, width = pixels.shape[:2]
    crc = google_crc32c.value(np.ascontiguousarray(pixels).reshape(-1))
    header = f"{'L' if pixels.ndim == 2 else 'RGB'} {width}x{height} {crc:08x} ".encode()
    return hashlib.sha256(header + luma.tobytes()).hexdigest()


def _sharpness(luma: np.ndarray) -> float:
    wide = luma.astype(np.int16)
    laplacian = wide[1:-1, 1:-1] * 4 - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    return math.sqrt(float(np.square(laplacian, dtype=np.float32).mean())) / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """What one decoding of an image gives.

    Attributes:
      result: the image's facts, or why it is refused.
      image: the record's JPEG, where that is not the source file as it stands; None otherwise.
    """

    result: ImageFacts | Reject
    image: bytes | None = None


def examine(data: bytes, policy: PixelPolicy) -> Examined:
    """Decodes an image fully, once, for all that is wanted of its pixels. Never raises for bad data.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.
    """
    image, size, pixels = None, None, None
    try:
        opened = open_image(data, policy)
        form, keeps_bytes = opened.format or "", conforms(data, opened, policy)
        if keeps_bytes:
            size, pixels = opened.size, turbo.decode_plain(data, grey=opened.mode == "L")
        if size is None or pixels is None:
            colours = _profile(opened)
            upright, size = decode(opened, policy)
            image = None if keeps_bytes else _encode(upright, size, profile=colours, policy=policy)
            pixels = np.asarray(upright)
    except Refused as refused:
        return Examined(result=refused.reject)
    luma = _luma(pixels)
    facts = ImageFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        pixel_sha256=_pixel_digest(pixels, luma),
        height=size[1],
        width=size[0],
        channels=1 if pixels.ndim == 2 else 3,
        format=form,
        keeps_bytes=keeps_bytes,
        perceptual_hash=perceptual.perceptual_hash(luma),
        brightness=round(float(luma.mean()) / 255, 5),
        sharpness=round(_sharpness(luma), 5),
    )
    return Examined(result=facts, image=image)


def inspect(data: bytes, policy: PixelPolicy) -> ImageFacts | Reject:
    """An image's facts, or why it is refused; see `examine`."""
    return examine(data, policy).result


def _profile(image: Image.Image) -> bytes | None:
    """The colour profile that goes into the record. The numbers are kept as they are, so what they mean (Display P3,
    Adobe RGB) is kept too, for programs that look."""
    profile: bytes = image.info.get("icc_profile") or b""
    colours_kept = image.mode in ("L", "RGB", "RGBA", "LA")
    return profile if colours_kept and 0 < len(profile) <= _MAX_PROFILE_BYTES else None


def _encode(pixels: Image.Image, size: tuple[int, int], *, profile: bytes | None, policy: PixelPolicy) -> bytes:
    """Upright pixels → the record's JPEG of this (width, height)."""
    if pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.info = {}  # Pillow would write comments and metadata that it finds there
    pixels.save(out, "JPEG", quality=policy.jpeg_quality, subsampling=policy.subsampling, icc_profile=profile)
    return out.getvalue()


def render(data: bytes, policy: PixelPolicy) -> bytes:
    """The record's JPEG: `data` itself if it conforms, otherwise encoded anew; a pure function of its arguments.

    Raises:
      ValueError: `inspect` refuses these bytes.
    """
    try:
        image = open_image(data, policy)
        if conforms(data, image, policy):
            return data
        profile = _profile(image)
        pixels, size = decode(image, policy)
    except Refused as refused:
        raise ValueError(f"refused: {refused.reject.code.value}: {refused.reject.detail}") from refused
    return _encode(pixels, size, profile=profile, policy=policy)
