"""Brings any image into the shape that the dataset builder gives it, in a guarded decoder."""

from __future__ import annotations

from pipeline.images.facts import ImageFacts
from pipeline.images.guarded import Decoder
from pipeline.images.policy import Reject


def as_record(decoder: Decoder, data: bytes) -> tuple[ImageFacts, bytes] | Reject:
    """Returns what is known of an image file and the file that the builder would make of it, or why it is refused."""
    (facts,) = decoder.inspect([data])
    if isinstance(facts, Reject):
        return facts
    if facts.keeps_bytes:
        return facts, data
    (image,) = decoder.render([data])
    return image if isinstance(image, Reject) else (facts, image)
