"""Looks at an encoded image once and says what the builder wants to know of it, or why it is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import google_crc32c
import numpy as np
from PIL import Image

from pipeline.images import hashing
from pipeline.images.facts import ImageFacts
from pipeline.images.jpeg import decode_plain
from pipeline.images.pixels import conforms, decode, open_image, surely_conforms
from pipeline.images.policy import PixelPolicy, Refused, Reject

_POINTS = 2 * hashing.SIDE
_TWICE_CENTRES = 2 * np.arange(_POINTS) + 1
_LUMA_WEIGHTS = tuple(np.uint32(weight) for weight in (19595, 38470, 7471))  # ITU-R BT.601, in 2^-16


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


def look(data: bytes, policy: PixelPolicy) -> Look | Reject:
    """Decodes an image fully, once, for all that is wanted of its pixels. Never raises for bad data.

    Args:
      data: an encoded image of any supported format.
      policy: what is accepted.
    """
    form, keeps_bytes, frame = "JPEG", True, surely_conforms(data, policy)
    pixels = decode_plain(data, grey=frame.channels == 1) if frame else None
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
