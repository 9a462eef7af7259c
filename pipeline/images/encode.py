"""Makes the record's image: the source file as it stands where that will do, else a JPEG encoded anew.

Every record is a JPEG, RGB or greyscale, upright, within the size limits. A JPEG that is all that already keeps its
bytes; everything else is decoded (`pixels` says how colours and transparency come out) and encoded again.
"""

from __future__ import annotations

import io

from PIL import Image

from pipeline.images.pixels import conforms, decode, open_image
from pipeline.images.policy import PixelPolicy, Refused

# Antialiased, in less than half of LANCZOS's time; on photos shrunk by two 37 dB from it, averages of areas 32 dB.
SHRINKING = Image.Resampling.HAMMING
# A larger colour profile (scanners' and printers' tables) or the usual sRGB one is not worth its bytes in every record.
_MAX_PROFILE_BYTES = 1024


def colour_profile(image: Image.Image) -> bytes | None:
    """Returns the colour profile that goes into the record, if any.

    The numbers are kept as they are, so what they mean (Display P3, Adobe RGB) is kept too, for programs that look.
    """
    profile: bytes = image.info.get("icc_profile") or b""
    colours_kept = image.mode in ("L", "RGB", "RGBA", "LA")
    return profile if colours_kept and 0 < len(profile) <= _MAX_PROFILE_BYTES else None


def encode(pixels: Image.Image, size: tuple[int, int], *, profile: bytes | None, policy: PixelPolicy) -> bytes:
    """Encodes upright pixels as the record's JPEG of this (width, height)."""
    if pixels.size != size:
        pixels = pixels.resize(size, SHRINKING, reducing_gap=3.0)
    out = io.BytesIO()
    pixels.info = {}  # Pillow would write comments and metadata that it finds there
    pixels.save(out, "JPEG", quality=policy.jpeg_quality, subsampling=policy.subsampling, icc_profile=profile)
    return out.getvalue()


def render(data: bytes, policy: PixelPolicy) -> bytes:
    """Makes the record's JPEG: `data` itself if it conforms, otherwise encoded anew; a pure function of its arguments.

    Raises:
      ValueError: `facts.inspect` refuses these bytes. What is kept is not decoded for that a second time.
    """
    try:
        image = open_image(data, policy)
        if conforms(image, policy):
            return data
        profile = colour_profile(image)
        pixels, size = decode(image, policy)
    except Refused as refused:
        raise ValueError(f"refused: {refused}") from refused
    return encode(pixels, size, profile=profile, policy=policy)
