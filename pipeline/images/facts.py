"""Says what the builder knows of an image that it accepts; `look` finds it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Holds what the builder knows of an accepted image; small, picklable, without pixels.

    Attributes:
      sha256: hex, of the source bytes.
      pixel_sha256: hex, equal for images whose decoded upright pixels are equal, whatever the format (under a max_side:
        whose pixels are equal as far as they were decoded). See `look._pixel_digest`.
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


def comparable_of(facts: ImageFacts, data: bytes) -> dict[str, float]:
    """Returns what an image is compared by with those of a dataset, as `KnownImages.facts` has them of these.

    Args:
      facts: of the image, by the policy of the dataset's builder.
      data: its file, as it came: not as it was encoded again.
    """
    from pipeline.format.rows import comparable_facts  # of what only those who compare need

    told = {"brightness": facts.brightness, "sharpness": facts.sharpness, "height": facts.height, "width": facts.width}
    columns = {name: np.array(value, np.float64) for name, value in (*told.items(), ("bytes", len(data)))}
    return {name: float(value) for name, value in comparable_facts(columns).items()}
