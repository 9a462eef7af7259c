"""Prepares any image for a model, in a guarded decoder: brings it into the shape that the dataset builder gives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.images.guarded import Decoder, Spec
from pipeline.images.policy import Reject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Holds an image that a model can be asked about.

    Attributes:
      encoded: as the builder would put it into a record.
      shown: what the model takes of it, see `loading.Parts`.
    """

    encoded: bytes
    shown: Any


def prepare(decoder: Decoder, images: Sequence[bytes], spec: Spec | None) -> list[Prepared | Reject]:
    """Prepares image files for a model, or says why the builder would refuse them.

    Args:
      decoder: that decodes them.
      images: encoded.
      spec: how the model sees images; None if it decodes by itself.
    """
    if spec is not None:
        return [
            seen if isinstance(seen, Reject) else Prepared(encoded=seen.record, shown=seen.pixels)
            for seen in decoder.see(images, spec)
        ]
    records = [_as_record(decoder, image) for image in images]
    return [one if isinstance(one, Reject) else Prepared(encoded=one, shown=one) for one in records]


def _as_record(decoder: Decoder, data: bytes) -> bytes | Reject:
    (facts,) = decoder.inspect([data])
    if isinstance(facts, Reject):
        return facts
    if facts.keeps_bytes:
        return data
    (image,) = decoder.render([data])
    return image
