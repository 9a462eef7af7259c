"""Offers images that nobody has to decode: their facts are laid down as if a killed build had inspected them.

What is left to a build is all that it does with rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from beam_jobs.elements import Finding, Item
from beam_jobs.findings import write_findings
from pipeline.images.facts import ImageFacts
from pipeline.images.hashing import HASH_BYTES

_CLASSES = 100
_TOGETHER = 10_000
_COPY_EVERY = 50  # of twice so many images one is a copy of another


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Implements `Source` by numbers from 0 on; the bytes of an image are its URI's."""

    count: int

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            label = f"class-{number % _CLASSES:03d}"
            yield Item(uri=f"{label}/{number:09d}.jpg", label=label, stamp="1000:1")

    def read(self, item: Item) -> bytes:
        return item.uri.encode()

    def labels(self) -> list[str] | None:
        return None

    def fingerprint(self) -> str:
        return "synthetic"


def _hashes(photos: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Draws hashes, uint8 [count, HASH_BYTES], each byte as often as photos have it; some are copies."""
    rng = np.random.default_rng(seed)
    drawn = photos[rng.integers(0, len(photos), (count, HASH_BYTES)), np.arange(HASH_BYTES)]
    copies = [n for n in range(_CLASSES, count, _COPY_EVERY) if n // _CLASSES % 2]
    drawn[copies] = drawn[[n - _CLASSES for n in copies]]  # of the same class
    return drawn


def lay_down(source: Synthetic, folder: str, photos: np.ndarray) -> None:
    """Writes the findings of all images into `folder`; `photos`: hashes, uint8 [n, HASH_BYTES], to draw from."""
    waiting: list[Finding] = []
    for number, item in enumerate(source.items()):
        if number % _TOGETHER == 0:
            hashes = _hashes(photos, _TOGETHER, seed=number)
        facts = ImageFacts(
            sha256=hashlib.sha256(source.read(item)).hexdigest(),
            pixel_sha256=hashlib.sha256(b"pixels" + source.read(item)).hexdigest(),
            height=480,
            width=640,
            channels=3,
            format="JPEG",
            keeps_bytes=True,
            perceptual_hash=hashes[number % _TOGETHER].tobytes(),
            brightness=0.5,
            sharpness=0.1,
        )
        waiting.append(Finding(uri=item.uri, stamp=item.stamp, size=30_000, result=facts))
        if len(waiting) == _TOGETHER:
            write_findings(waiting, folder)
            waiting = []
    write_findings(waiting, folder)
