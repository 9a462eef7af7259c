"""Gathers what is known of the images that are checked, besides their features: from records and the build's tables."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pipeline.format.manifest import DatasetVersion
from pipeline.format.rows import KnownImages

_MAKE, _MODEL = 0x010F, 0x0110  # EXIF


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedImages:
    """Holds what is known of N images, in the order of their features: split by split, in file order.

    Attributes:
      ids: of the records, hex.
      sources: of the records.
      splits: names.
      labels: int [N].
      groups: int [N]; equal for images that look alike.
      numbers: fact → float [N]; only facts that are known of all.
      cameras: maker and model; "" where a file does not say.
    """

    ids: Sequence[str]
    sources: Sequence[str]
    splits: Sequence[str]
    labels: np.ndarray
    groups: np.ndarray
    numbers: Mapping[str, np.ndarray]
    cameras: Sequence[str]


def gather(data: DatasetVersion, counts: Mapping[str, int], known: KnownImages) -> CheckedImages:
    """Reads the first records of splits, and looks up what the build's tables say of them.

    Args:
      data: the dataset.
      counts: split → how many records.
      known: all that the tables say.

    Raises:
      DataError: a shard is damaged.
    """
    place = {source: index for index, source in enumerate(known.sources)}
    rows, cameras, places = [], [], []
    for split, count in counts.items():
        for record in itertools.islice(data.read(split), count):
            rows.append((record.id, record.source, split, record.label, record.height, record.width, len(record.image)))
            cameras.append(_camera(record.image))
            places.append(place[record.source])
    ids, sources, splits, labels, heights, widths, sizes = zip(*rows, strict=True)
    height, width = np.array(heights, float), np.array(widths, float)
    numbers = {
        "size": np.sqrt(height * width),
        "aspect": width / height,
        "bytes a pixel": np.array(sizes) / (height * width),
        "brightness": known.facts["brightness"][places],
    }
    return CheckedImages(
        ids=ids,
        sources=sources,
        splits=splits,
        labels=np.array(labels),
        groups=_numbered([known.groups[at] for at in places]),
        numbers={name: values for name, values in numbers.items() if np.isfinite(values).all()},
        cameras=cameras,
    )


def _camera(encoded: bytes) -> str:
    """Returns what a file says of the camera that took it."""
    if b"Exif\0\0" not in encoded[:65_536]:  # most photos from the web: nothing to be parsed
        return ""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            exif = image.getexif()
    except (OSError, ValueError, SyntaxError):
        return ""
    return " ".join(str(exif.get(tag, "")).strip("\0 ") for tag in (_MAKE, _MODEL)).strip()


def _numbered(groups: Sequence[bytes]) -> np.ndarray:
    """Gives equal numbers to equal names; an image without a name is a group of its own."""
    named = [group or str(index).encode() for index, group in enumerate(groups)]
    return np.unique(np.array(named, object), return_inverse=True)[1]
