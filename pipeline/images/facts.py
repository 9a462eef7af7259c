"""Looks at an encoded image once and says what the builder wants to know of it, or why it is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image

from pipeline.format.rows import comparable_facts
from pipeline.images import hashing
from pipeline.images.jpeg import decode_plain, plain_frame
from pipeline.images.pixels import MAX_SCANNED_PIXELS, conforms, decode, open_image, record_size
from pipeline.images.policy import PixelPolicy, Refused, Reject

_POINTS = 2 * hashing.SIDE
_TWICE_CENTRES = 2 * np.arange(_POINTS) + 1
_LUMA_WEIGHTS = tuple(np.uint32(weight) for weight in (19595, 38470, 7471))  # ITU-R BT.601, in 2^-16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Holds what the builder knows of an accepted image; small, picklable, without pixels.

    Attributes:
      sha256: hex, of the source bytes.
      pixel_sha256: hex, equal for images whose decoded upright pixels are equal, whatever the format (under a max_side:
        whose pixels are equal as far as they were decoded). See `_pixel_digest`.
      height: of the record's image, upright, pixels.
      width: of the record's image, upright, pixels.
      channels: 1 or 3.
      format: Pillow's name of the source format.
      keeps_bytes: whether the record's image is the source file as it stands.
      perceptual_hash: 72 bytes, or b"" for a next to uniform image; see `hashing`.
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


def facts_fields(facts: ImageFacts) -> tuple:
    """Lists the facts as plain values, digests as bytes: what `facts_of` takes."""
    digests = bytes.fromhex(facts.sha256), bytes.fromhex(facts.pixel_sha256)
    shape = facts.height, facts.width, facts.channels
    return *digests, *shape, facts.format, facts.keeps_bytes, facts.perceptual_hash, facts.brightness, facts.sharpness


def facts_of(fields: Iterable[Any]) -> ImageFacts:
    """Makes facts of their plain values."""
    sha256, pixels, height, width, channels, form, keeps_bytes, perceptual_hash, brightness, sharpness = fields
    return ImageFacts(
        sha256=sha256.hex(),
        pixel_sha256=pixels.hex(),
        height=height,
        width=width,
        channels=channels,
        format=form,
        keeps_bytes=keeps_bytes,
        perceptual_hash=perceptual_hash,
        brightness=brightness,
        sharpness=sharpness,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Holds what one decoding of an image gives; `make_facts` makes facts of many at a time.

    Attributes:
      sha256, height, width, channels, format, keeps_bytes: see `ImageFacts`.
      pixels: mode, size and CRC-32C of all pixels, as text.
      points: uint32 [2 * SIDE, 2 * SIDE], sampled evenly over the upright image: red in the lowest byte, then green,
        blue and something undefined.
    """

    sha256: str
    height: int
    width: int
    channels: int
    format: str
    keeps_bytes: bool
    pixels: str
    points: np.ndarray


def _sample(pixels: np.ndarray) -> np.ndarray:
    """Samples the pixels evenly for `Look.points`; images narrower than `_POINTS` are resized first.

    Points, because averages over all pixels would cost as much as the rest of the inspection, and low frequencies
    average over all points anyway.
    """
    if min(pixels.shape[:2]) < _POINTS:
        pixels = np.asarray(Image.fromarray(pixels).resize((_POINTS, _POINTS), Image.Resampling.BILINEAR))
    height, width = pixels.shape[:2]
    rows, columns = (_TWICE_CENTRES * side // (2 * _POINTS) for side in (height, width))
    if pixels.ndim == 2:
        return pixels[rows].take(columns, axis=1) * np.uint32(0x010101)
    # Words that begin at every third byte: NumPy gathers them in half the time that it takes for three bytes each.
    chosen = np.empty(_POINTS * width * 3 + 1, np.uint8)
    pixels.take(rows, axis=0, out=chosen[:-1].reshape(_POINTS, width, 3), mode="clip")
    return np.ndarray((_POINTS, width), "<u4", chosen, strides=(width * 3, 3))[:, columns]


def _describe(pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    crc = google_crc32c.value(np.ascontiguousarray(pixels).reshape(-1))
    return f"{'L' if pixels.ndim == 2 else 'RGB'} {width}x{height} {crc:08x} "


def _plain_pixels(data: bytes, policy: PixelPolicy) -> np.ndarray | None:
    """Decodes a JPEG that is plain beyond doubt and keeps its bytes; returns None for all others, which Pillow opens.

    Most photos are; for them, this saves what Pillow takes to parse a header a second time.
    """
    frame = plain_frame(data) if data.startswith(b"\xff\xd8\xff") and len(data) <= policy.max_bytes else None
    if frame is None or not frame.bare or frame.channels not in (1, 3):
        return None
    size, count = (frame.width, frame.height), frame.width * frame.height
    fits = policy.min_side <= min(size) and count <= policy.max_pixels and record_size(size, policy) == size
    if not fits or frame.scans * count > MAX_SCANNED_PIXELS:
        return None
    return decode_plain(data, grey=frame.channels == 1)


def look(data: bytes, policy: PixelPolicy) -> Look | Reject:
    """Decodes an image fully, once, for all that is wanted of its pixels. Never raises for bad data.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.
    """
    form, keeps_bytes, pixels = "JPEG", True, _plain_pixels(data, policy)
    size = pixels.shape[1::-1] if pixels is not None else (0, 0)
    if pixels is None:
        try:
            opened = open_image(data, policy)
            form, keeps_bytes = opened.format or "", conforms(opened, policy)
            if keeps_bytes:
                size, pixels = opened.size, decode_plain(data, grey=opened.mode == "L")
            if pixels is None:
                upright, size = decode(opened, policy)
                pixels = np.asarray(upright)
        except Refused as refused:
            return refused.reject
    return Look(
        sha256=hashlib.sha256(data).hexdigest(),
        height=size[1],
        width=size[0],
        channels=1 if pixels.ndim == 2 else 3,
        format=form,
        keeps_bytes=keeps_bytes,
        pixels=_describe(pixels),
        points=_sample(pixels),
    )


def _lumas(looks: Sequence[Look]) -> np.ndarray:
    """Averages the luma of the four points in each cell, as Pillow's "L" and `reduce` round: uint8 [n, SIDE, SIDE]."""
    points = np.stack([look.points for look in looks])
    luma = (points & 255) * _LUMA_WEIGHTS[0]
    for weight in _LUMA_WEIGHTS[1:]:
        points >>= 8
        luma += (points & 255) * weight
    luma += 1 << 15
    luma >>= 16
    cells = luma.reshape(len(looks), hashing.SIDE, 2, hashing.SIDE, 2)
    rows = cells[:, :, 0] + cells[:, :, 1]
    return ((rows[..., 0] + rows[..., 1] + 2) >> 2).astype(np.uint8)


def _pixel_digest(pixels: str, luma: np.ndarray) -> str:
    """Hashes the mode, the size, a CRC-32C of all pixels and 4,096 mean lumas by sha256.

    sha256 of all pixels would take a fifth of the time that decoding takes. For this digest to err, images must agree
    in size and in every mean, that is look alike, and then collide in the CRC, by a chance of 2^-32.
    """
    return hashlib.sha256(pixels.encode() + luma.tobytes()).hexdigest()


def _sharpness(lumas: np.ndarray) -> np.ndarray:
    """Measures sharpness as `ImageFacts` defines it: float64 [n]."""
    wide = lumas.astype(np.int32)
    laplacian = (
        wide[:, 1:-1, 1:-1] * 4 - wide[:, :-2, 1:-1] - wide[:, 2:, 1:-1] - wide[:, 1:-1, :-2] - wide[:, 1:-1, 2:]
    )
    return np.sqrt(np.square(laplacian).mean(axis=(1, 2))) / 255


def make_facts(looks: Sequence[Look]) -> list[ImageFacts]:
    """Makes the facts of several images: together, because most steps' overhead exceeds their work on one image.

    What comes out for an image does not depend on the others.
    """
    if not looks:
        return []
    lumas = _lumas(looks)
    hashes = hashing.perceptual_hashes(lumas)
    brightness = lumas.mean(axis=(1, 2)) / 255
    return [
        ImageFacts(
            sha256=look.sha256,
            pixel_sha256=_pixel_digest(look.pixels, luma),
            height=look.height,
            width=look.width,
            channels=look.channels,
            format=look.format,
            keeps_bytes=look.keeps_bytes,
            perceptual_hash=perceptual_hash,
            brightness=round(light, 5),
            sharpness=round(sharp, 5),
        )
        for look, luma, perceptual_hash, light, sharp in zip(
            looks, lumas, hashes, brightness.tolist(), _sharpness(lumas).tolist(), strict=True
        )
    ]


def inspect(data: bytes, policy: PixelPolicy) -> ImageFacts | Reject:
    """Returns an image's facts, or why it is refused."""
    seen = look(data, policy)
    return seen if isinstance(seen, Reject) else make_facts([seen])[0]


def comparable_of(facts: ImageFacts, data: bytes) -> dict[str, float]:
    """Returns what an image is compared by with those of a dataset, as `KnownImages.facts` has them of these.

    Args:
      facts: of the image, by the policy of the dataset's builder.
      data: its file, as it came: not as it was encoded again.
    """
    told = {"brightness": facts.brightness, "sharpness": facts.sharpness, "height": facts.height, "width": facts.width}
    columns = {name: np.array(value, np.float64) for name, value in (*told.items(), ("bytes", len(data)))}
    return {name: float(value) for name, value in comparable_facts(columns).items()}
