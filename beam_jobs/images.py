"""Bytes → facts or a reject, and bytes → the record's JPEG: the whole pixel policy. Free of TensorFlow.

Every record is a JPEG, RGB or greyscale, upright, within the size limits. A JPEG that is all that already keeps its
bytes; everything else is decoded and encoded again. Pixel values are taken as stored: colour profiles are not applied,
because neither TensorFlow's decoder nor a served model applies them, and training must see what serving sees.
Transparency is laid over white. CMYK goes to RGB by the plain formula that TensorFlow uses.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import io
import math
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps


class RejectCode(enum.Enum):
    """Why something is not in the dataset. A closed list: rejects.jsonl, the report and the tests count by it."""

    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_SMALL = "too_small"
    ANIMATED = "animated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    LABEL_CONFLICT = "label_conflict"
    TRAIN_COPY_OF_TEST = "train_copy_of_test"
    UNREADABLE = "unreadable"
    # Download failures.
    HTTP_STATUS = "http_status"
    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECTION = "connection"
    TLS = "tls"
    PRIVATE_ADDRESS = "private_address"
    BAD_URL = "bad_url"
    ROBOTS = "robots"
    NOAI = "noai"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    CONTENT_TYPE = "content_type"
    CUT_BODY = "cut_body"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPolicy:
    """What is accepted and what a record's image looks like.

    Attributes:
      max_pixels: largest declared width × height; checked before anything is decoded.
      max_bytes: largest source file.
      min_side: shortest side in pixels that is still an image of something.
      max_side: longest side of a record's image in pixels (larger ones shrink), or None to keep all sizes.
      animated: "first_frame" takes the first frame or page, "refuse" rejects files with several.
      jpeg_quality: of the JPEGs that we encode.
      subsampling: chroma subsampling of the JPEGs that we encode, "4:2:0" or "4:4:4".
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 64 << 20
    min_side: int = 8
    max_side: int | None = None
    animated: str = "first_frame"
    jpeg_quality: int = 95
    subsampling: str = "4:2:0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the builder knows of an accepted image; small, picklable, without pixels.

    Attributes:
      sha256: hex, of the source bytes.
      pixel_sha256: hex, equal for images whose decoded upright pixels are equal.
      height: of the record's image, upright, pixels.
      width: of the record's image, upright, pixels.
      channels: 1 or 3.
      format: Pillow's name of the source format.
      keeps_bytes: whether the record's image is the source file as it stands.
      perceptual_hash: 32 bytes, for beam_jobs.duplicates.
      brightness: mean luma, 0 to 1.
      sharpness: standard deviation of the Laplacian of the thumbnail's luma (0 to 1); low = blurred.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """Why an image is refused: a code to count by and a sentence for a person."""

    code: RejectCode
    detail: str


# In the order tried. A closed list: Pillow's other plugins include ones that start programs (EPS) or guess.
_WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
Image.init()
_FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)


class _Refused(Exception):
    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.reject = Reject(code=code, detail=detail)


def _open(data: bytes, policy: PixelPolicy) -> Image.Image:
    if len(data) > policy.max_bytes:
        raise _Refused(RejectCode.TOO_MANY_BYTES, f"{len(data)} bytes, at most {policy.max_bytes} allowed")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _Refused(RejectCode.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        raise _Refused(RejectCode.NOT_AN_IMAGE, "no known image format") from error
    if image.width * image.height > policy.max_pixels:
        raise _Refused(
            RejectCode.TOO_MANY_PIXELS, f"{image.width}x{image.height} pixels, at most {policy.max_pixels} allowed"
        )
    if min(image.size) < policy.min_side:
        raise _Refused(RejectCode.TOO_SMALL, f"{image.width}x{image.height}, at least {policy.min_side} a side wanted")
    if policy.animated == "refuse" and getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise _Refused(RejectCode.ANIMATED, f"{getattr(image, 'n_frames', 0)} frames")
    return image


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(0x0112, 1) or 1)


def _fits(size: tuple[int, int], policy: PixelPolicy) -> bool:
    return policy.max_side is None or max(size) <= policy.max_side


def _target(size: tuple[int, int], policy: PixelPolicy) -> tuple[int, int]:
    if policy.max_side is None or _fits(size, policy):
        return size
    scale = policy.max_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _keeps_bytes(image: Image.Image, policy: PixelPolicy) -> bool:
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("L", "RGB")
        and _orientation(image) == 1
        and _fits(image.size, policy)
    )


def _to_rgb_or_grey(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _Refused(RejectCode.UNSUPPORTED, "32-bit samples have no defined white")
    if image.mode == "LAB":
        srgb = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert srgb is not None  # None is for inPlace only
        return srgb
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        grey = image.mode in ("L", "1", "LA", "La")
        rgba = image.convert("RGBA")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(rgba)
        return flat.convert("L" if grey else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _decode(image: Image.Image, policy: PixelPolicy) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes to upright "L" or "RGB", at full size or DCT-scaled; also returns the record's (width, height)."""
    target = _target(image.size, policy)
    try:
        if target != image.size:
            image.draft(image.mode, target)
        image.load()
        if _orientation(image) >= 5:
            target = target[::-1]
        return _to_rgb_or_grey(ImageOps.exif_transpose(image)), target
    except _Refused:
        raise
    except MemoryError as error:
        raise _Refused(RejectCode.TOO_MANY_PIXELS, "out of memory while decoding") from error
    except Exception as error:
        raise _Refused(RejectCode.TRUNCATED, f"{type(error).__name__}: {error}") from error


def _dct_basis(size: int, frequencies: int) -> np.ndarray:
    k, x = np.arange(frequencies)[:, None], np.arange(size)[None]
    return np.cos(math.pi * k * (2 * x + 1) / (2 * size)).astype(np.float32)


_BASIS = _dct_basis(32, 16)


def inspect(data: bytes, policy: PixelPolicy) -> ImageFacts | Reject:
    """Decodes an image fully, once.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.

    Returns:
      Its facts, or why it is refused. Never raises for bad data.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _open(data, policy)
            form, keeps = image.format or "", _keeps_bytes(image, policy)
            pixels, (width, height) = _decode(image, policy)
        except _Refused as refused:
            return refused.reject
    thumbnail = np.asarray(
        pixels.reduce(max(1, min(pixels.size) // 64)).convert("L").resize((32, 32), Image.Resampling.BOX), np.float32
    )
    laplacian = 4 * thumbnail[1:-1, 1:-1] - thumbnail[:-2, 1:-1] - thumbnail[2:, 1:-1]
    laplacian -= thumbnail[1:-1, :-2] + thumbnail[1:-1, 2:]
    signs = (_BASIS @ thumbnail @ _BASIS.T) > 0
    return ImageFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        pixel_sha256=hashlib.sha256(f"{pixels.mode} {pixels.size} ".encode() + pixels.tobytes()).hexdigest(),
        height=height,
        width=width,
        channels=len(pixels.getbands()),
        format=form,
        keeps_bytes=keeps,
        perceptual_hash=np.packbits(signs).tobytes(),
        brightness=float(thumbnail.mean()) / 255,
        sharpness=float(laplacian.std()) / 255,
    )


def render(data: bytes, policy: PixelPolicy) -> bytes:
    """The record's JPEG: `data` itself if it conforms, otherwise encoded anew; a pure function of its arguments.

    Raises:
      ValueError: `inspect` refuses these bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _open(data, policy)
            if _keeps_bytes(image, policy):
                return data
            pixels, target = _decode(image, policy)
        except _Refused as refused:
            raise ValueError(f"refused: {refused.reject.code.value}: {refused.reject.detail}") from refused
    if pixels.size != target:
        pixels = pixels.resize(target, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    pixels.info = {}
    pixels.save(out, "JPEG", quality=policy.jpeg_quality, subsampling=policy.subsampling)
    return out.getvalue()
