"""Brings pictures into pages: finds the records of images, and makes small pictures of them."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from pipeline.command import DataError
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record, RecordError, decode_example, read_frames

_THUMBNAIL_PIXELS = 168


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Describes an image that is shown.

    Attributes:
      label: its label.
      told: what is said of it.
      source: where it came from.
      uri: a data: URI; None where there is no picture.
    """

    label: str
    told: str
    source: str
    uri: str | None


def find_records(data: DatasetVersion, split: str, ids: Iterable[str]) -> dict[str, Record]:
    """Finds the records of ids in a split, as far as it holds them, by reading it.

    Raises:
      DataError: a shard is damaged.
    """
    wanted = set(ids)
    found: dict[str, Record] = {}
    if split not in data.manifest.splits:
        return {}
    for path in data.shard_paths(split):
        if len(found) == len(wanted):
            break
        with storage.open_file(path) as file:
            try:
                for record in map(decode_example, read_frames(file)):
                    if record.id in wanted:
                        found[record.id] = record
            except RecordError as error:
                raise DataError(f"{path}: {error}; run the build's command again with --repair") from error
    return found


def data_uri(encoded: bytes) -> str:
    """Encodes the image, at most `_THUMBNAIL_PIXELS` on its longer side, as a data: URI; tiny ones stay lossless."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("RGB", (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
        small = image.convert("RGB")
    return _encoded(small)


def pixels_uri(pixels: np.ndarray) -> str:
    """Does the same for an image that is no file yet: uint8 [H, W, 3]."""
    return _encoded(Image.fromarray(pixels))


def _encoded(small: Image.Image) -> str:
    lossless = max(small.size) <= 64
    small.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG" if lossless else "JPEG", quality=80)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
