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
      file: as it was given; b"" where that is no file.
    """

    encoded: bytes
    shown: Any
    file: bytes = b""


def prepare(decoder: Decoder, images: Sequence[bytes], spec: Spec | None) -> list[Prepared | Reject]:
    """Prepares image files for a model, or says why the builder would refuse them.

    Args:
      decoder: that decodes them.
      images: encoded.
      spec: how the model sees images; None if it decodes by itself.
    """
    if spec is not None:
        return [
            seen if isinstance(seen, Reject) else Prepared(encoded=seen.record, shown=seen.pixels, file=image)
            for image, seen in zip(images, decoder.see(images, spec), strict=True)
        ]
    records = [_as_record(decoder, image) for image in images]
    return [
        one if isinstance(one, Reject) else Prepared(encoded=one, shown=one, file=image)
        for image, one in zip(images, records, strict=True)
    ]


def _as_record(decoder: Decoder, data: bytes) -> bytes | Reject:
    (facts,) = decoder.inspect([data])
    if isinstance(facts, Reject):
        return facts
    if facts.keeps_bytes:
        return data
    (image,) = decoder.render([data])
    return image
