"""Makes the record's image: the source file as it stands where that will do, else a JPEG encoded anew.

Every record is a JPEG (a PNG where the source is pixels), RGB or greyscale, upright, within the size limits. A JPEG
that is all that already keeps its bytes; everything else is decoded (`pixels` says how colours and transparency come
out) and encoded again.
"""

from __future__ import annotations

import contextlib
import io

from PIL import Image

from pipeline.images.metadata import without_metadata
from pipeline.images.pixels import conforms, decode, open_image, record_size
from pipeline.images.policy import PixelPolicy, Refused

# Antialiased, in less than half of LANCZOS's time; on photos shrunk by two 37 dB from it, averages of areas 32 dB.
SHRINKING = Image.Resampling.HAMMING
# A larger colour profile (scanners' and printers' tables) or the usual sRGB one is not worth its bytes in every record.
_MAX_PROFILE_BYTES = 1024
LOSSLESS_FORMATS = ("PNG", "PPM")
_THUMBNAIL = 112  # pixels, longer side
_THUMBNAIL_QUALITY = 72


def colour_profile(image: Image.Image) -> bytes | None:
    """Returns the colour profile that goes into the record, if any.

    The numbers are kept as they are, so what they mean (Display P3, Adobe RGB) is kept too, for programs that look.
    """
    profile: bytes = image.info.get("icc_profile") or b""
    colours_kept = image.mode in ("L", "RGB", "RGBA", "LA")
    return profile if colours_kept and 0 < len(profile) <= _MAX_PROFILE_BYTES else None


def encode(
    pixels: Image.Image, size: tuple[int, int], *, profile: bytes | None, lossless: bool, policy: PixelPolicy
) -> bytes:
    """Encodes upright pixels as the record's image of this (width, height)."""
    if pixels.size != size:
        pixels = pixels.resize(size, SHRINKING, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.info = {}  # Pillow would write comments and metadata that it finds there
    if lossless:
        pixels.save(out, "PNG", icc_profile=profile)
    else:
        pixels.save(out, "JPEG", quality=policy.jpeg_quality, subsampling=policy.subsampling, icc_profile=profile)
    return out.getvalue()


def render(data: bytes, policy: PixelPolicy) -> bytes:
    """Makes the record's image: `data` itself if it conforms, otherwise encoded anew; a pure function of its arguments.

    Under `policy.strip_metadata`, `data` without their metadata.

    Raises:
      ValueError: `facts.inspect` refuses these bytes. What is kept is not decoded for that a second time.
    """
    try:
        image = open_image(data, policy)
        if conforms(image, policy):
            if not policy.strip_metadata:
                return data
            with contextlib.suppress(ValueError):  # else it is encoded anew, which leaves nothing either
                return without_metadata(data)
        return encode_anew(image, policy)
    except Refused as refused:
        raise ValueError(f"refused: {refused}") from refused


def encode_anew(image: Image.Image, policy: PixelPolicy) -> bytes:
    """Makes the record's image of an opened one.

    Raises:
      Refused: it is damaged, or without a defined meaning.
    """
    profile = colour_profile(image)
    shrinks = record_size(image.size, policy) != image.size
    lossless = policy.lossless and image.format in LOSSLESS_FORMATS and not shrinks
    pixels, size = decode(image, policy)
    return encode(pixels, size, profile=profile, lossless=lossless, policy=policy)


def thumbnail(data: bytes) -> bytes:
    """Makes a small JPEG for people to look at, of whatever can be decoded.

    Raises:
      Refused: nothing can.
    """
    policy = PixelPolicy(min_side=1, max_side=2 * _THUMBNAIL)
    pixels, _ = decode(open_image(data, policy), policy)
    pixels.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    pixels.info = {}
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=_THUMBNAIL_QUALITY)
    return out.getvalue()
