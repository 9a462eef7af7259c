"""Holds what helps to understand a model's mistakes: features of images, and where it looked. NumPy only."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import logging

from pipeline.command import first_line
from pipeline.format import storage

FILE = "explanations.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanations:
    """Holds features of some images of two splits, and where the model looked in a few.

    Attributes:
      split: whose images were predicted.
      ids: of N images of that split, hex.
      features: float16 [N, F], of the trained backbone.
      train_ids: of M training images, hex.
      train_labels: int [M].
      train_features: float16 [M, F].
      looked_at: ids of K images of the split.
      pictures: uint8 [K, H, W, 3], these as the model sees them.
      heat: float32 [K, G, G], by how much the probability of the answer falls where a part is covered.
    """

    split: str
    ids: Sequence[str]
    features: np.ndarray
    train_ids: Sequence[str]
    train_labels: np.ndarray
    train_features: np.ndarray
    looked_at: Sequence[str]
    pictures: np.ndarray
    heat: np.ndarray

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            split=np.array(self.split),
            ids=np.array(self.ids, "S64"),
            features=self.features.astype(np.float16),
            train_ids=np.array(self.train_ids, "S64"),
            train_labels=self.train_labels,
            train_features=self.train_features.astype(np.float16),
            looked_at=np.array(self.looked_at, "S64"),
            pictures=self.pictures,
            heat=self.heat,
        )
        return content.getvalue()

    def nearest_training_images(self, image: str, count: int) -> list[str]:
        """Returns the ids of the training images whose features are most like an image's, the likest first."""
        if image not in self.ids or not len(self.train_ids):
            return []
        own = self.features[list(self.ids).index(image)].astype(np.float32)
        known = self.train_features.astype(np.float32)
        lengths = np.linalg.norm(known, axis=1) * np.linalg.norm(own)
        similarity = known @ own / np.maximum(lengths, np.finfo(np.float32).tiny)
        return [self.train_ids[at] for at in np.argsort(-similarity, kind="stable")[:count]]


def read_explanations(run: storage.Path) -> Explanations | None:
    """Reads a run's explanations; None where it has none, or, with a warning, where they are damaged."""
    file = storage.join(run, FILE)
    try:
        content = storage.read(file)
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return Explanations(
                split=str(arrays["split"]),
                ids=_texts(arrays["ids"]),
                features=arrays["features"],
                train_ids=_texts(arrays["train_ids"]),
                train_labels=arrays["train_labels"],
                train_features=arrays["train_features"],
                looked_at=_texts(arrays["looked_at"]),
                pictures=arrays["pictures"],
                heat=arrays["heat"],
            )
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        logging.warning("%s: damaged (%s); the report goes without it", file, first_line(error))
        return None


def _texts(names: np.ndarray) -> tuple[str, ...]:
    return tuple(name.decode() for name in names.tolist())


def plane(features: np.ndarray) -> np.ndarray:
    """Projects features, float [N, F], onto the plane of their two largest principal components, float64 [N, 2]."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    # Of few images: [N, N] is smaller than [F, F], and the eigenvectors of either give the same plane.
    if len(centred) <= centred.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        return vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, :-3:-1]
