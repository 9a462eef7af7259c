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

from beam_jobs import perceptual
from beam_jobs.decoding import conforms, decode, open_image
from beam_jobs.policy import PixelPolicy, Refused, Reject, RejectCode

__all__ = ["ImageFacts", "PixelPolicy", "Reject", "RejectCode", "inspect", "render"]

_STRIP_BYTES = 4 << 20
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


def _luma(pixels: Image.Image) -> np.ndarray:
    """uint8 [SIDE, SIDE]: the mean luma of four points in each cell. Points, where there are enough: averages over all
    pixels would cost as much as the rest of the inspection, and low frequencies average over all points anyway."""
    points = 2 * perceptual.SIDE
    method = Image.Resampling.NEAREST if min(pixels.size) >= points else Image.Resampling.BILINEAR
    return np.asarray(pixels.resize((points, points), method).convert("L").reduce(2))


def _crc(pixels: Image.Image) -> int:
    rows = max(1, _STRIP_BYTES // (pixels.width * len(pixels.getbands())))
    if pixels.height <= rows:
        return google_crc32c.value(pixels.tobytes())
    crc = 0
    for top in range(0, pixels.height, rows):
        strip = pixels.crop((0, top, pixels.width, min(pixels.height, top + rows)))
        crc = google_crc32c.extend(crc, strip.tobytes())
    return crc


def _pixel_digest(pixels: Image.Image, luma: np.ndarray) -> str:
    """sha256 over the mode, the size, 4,096 mean lumas and a CRC-32C of all pixels.

    sha256 of all pixels would take a fifth of the time that decoding takes. For this digest to err, images must agree
    in size and in every mean, that is look alike, and then collide in the CRC, by a chance of 2^-32.
    """
    header = f"{pixels.mode} {pixels.width}x{pixels.height} {_crc(pixels):08x} ".encode()
    return hashlib.sha256(header + luma.tobytes()).hexdigest()


def _sharpness(luma: np.ndarray) -> float:
    wide = luma.astype(np.int16)
    laplacian = wide[1:-1, 1:-1] * 4 - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    return math.sqrt(float(np.square(laplacian, dtype=np.float32).mean())) / 255


def inspect(data: bytes, policy: PixelPolicy) -> ImageFacts | Reject:
    """Decodes an image fully, once.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.

    Returns:
      Its facts, or why it is refused. Never raises for bad data.
    """
    try:
        image = open_image(data, policy)
        form, keeps_bytes = image.format or "", conforms(data, image, policy)
        pixels, (width, height) = decode(image, policy)
    except Refused as refused:
        return refused.reject
    luma = _luma(pixels)
    return ImageFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        pixel_sha256=_pixel_digest(pixels, luma),
        height=height,
        width=width,
        channels=len(pixels.getbands()),
        format=form,
        keeps_bytes=keeps_bytes,
        perceptual_hash=perceptual.perceptual_hash(luma),
        brightness=round(float(luma.mean()) / 255, 5),
        sharpness=round(_sharpness(luma), 5),
    )


def render(data: bytes, policy: PixelPolicy) -> bytes:
    """The record's JPEG: `data` itself if it conforms, otherwise encoded anew; a pure function of its arguments.

    Raises:
      ValueError: `inspect` refuses these bytes.
    """
    try:
        image = open_image(data, policy)
        if conforms(data, image, policy):
            return data
        colours_kept = image.mode in ("L", "RGB", "RGBA", "LA")
        profile = image.info.get("icc_profile") or b""
        pixels, size = decode(image, policy)
    except Refused as refused:
        raise ValueError(f"refused: {refused.reject.code.value}: {refused.reject.detail}") from refused
    if pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.info = {}  # Pillow would write comments and metadata that it finds there
    # The numbers are kept as they are, so what they mean (Display P3, Adobe RGB) is kept too, for programs that look.
    keep_profile = colours_kept and 0 < len(profile) <= _MAX_PROFILE_BYTES
    pixels.save(
        out,
        "JPEG",
        quality=policy.jpeg_quality,
        subsampling=policy.subsampling,
        icc_profile=profile if keep_profile else None,
    )
    return out.getvalue()
