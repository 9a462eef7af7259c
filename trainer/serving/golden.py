"""Chooses golden images: a few that a model answers rightly, kept in its export with the answers that are expected.

Whoever serves the model asks it about them, and knows whether it sees what it was trained on.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a server, which reads golden images, needs neither
    from pipeline.format.manifest import DatasetVersion
    from pipeline.predictions import Predictions

FOLDER, ANSWERS = "golden", "golden.json"
_MOST = 24
_TYPES = {b"\x89PNG": ".png"}  # by the first bytes; else JPEG


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenImage:
    """Holds an image of a dataset: its id, the name of its label, and the encoded image."""

    id: str
    label: str
    encoded: bytes

    @property
    def file_name(self) -> str:
        """Returns its name in the folder of golden images."""
        return f"{self.id[:16]}{_TYPES.get(self.encoded[:4], '.jpg')}"


def choose_golden(found: Predictions, data: DatasetVersion, split: str, *, most: int = _MOST) -> list[GoldenImage]:
    """Chooses the surest right answers, label after label in turn; none where nothing is answered rightly.

    Sure ones, because whoever replaces the model must have them right, too: on those between two labels also equally
    good models differ.

    Args:
      found: answers to the split.
      data: the dataset.
      split: its name.
      most: how many.
    """
    chosen = surest(found, most=most)
    wanted = {found.ids[at]: found.names[found.labels[at]] for at in chosen}
    images = {record.id: record.image for record in data.read(split) if record.id in wanted} if wanted else {}
    return [GoldenImage(id=image, label=label, encoded=images[image]) for image, label in wanted.items()]


def surest(found: Predictions, *, most: int) -> np.ndarray:
    """Returns where the surest right answers are, label after label in turn, int [at most `most`]."""
    rank = np.zeros(len(found.ids), np.int64)  # of an image among the right ones of its label
    right = np.flatnonzero(found.correct)
    for label in range(len(found.names)):
        own = right[found.labels[right] == label]
        rank[own[np.argsort(-found.confidence[own], kind="stable")]] = np.arange(len(own))
    return right[np.lexsort((-found.confidence[right], rank[right]))][:most]


def write_golden(images: Sequence[GoldenImage], probabilities: np.ndarray, export: pathlib.Path) -> None:
    """Writes images, and what is to be answered, into an export.

    Args:
      images: N of them.
      probabilities: float32 [N, C].
      export: its folder.
    """
    folder = export / FOLDER
    folder.mkdir()
    for image in images:
        (folder / image.file_name).write_bytes(image.encoded)
    rows = [
        {"file": image.file_name, "id": image.id, "label": image.label, "probabilities": answer.tolist()}
        for image, answer in zip(images, probabilities.astype(np.float64), strict=True)
    ]
    (folder / ANSWERS).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
