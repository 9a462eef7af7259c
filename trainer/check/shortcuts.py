"""Asks what a classifier would know that sees no picture: only size, aspect, bytes a pixel, brightness and camera.

Where these tell labels apart, a model may learn how photos were taken in place of what they show (Geirhos et al. 2020,
arXiv 2004.07780). NumPy only.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.linear.probe import out_of_fold

_BINS = 8  # quantiles of a number
_CAMERAS = 20  # the most frequent ones
_STRENGTH = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortcut:
    """Holds what some facts alone tell of the labels.

    Attributes:
      facts: which.
      accuracy: balanced: the mean share of each label's images that are told rightly, none of them seen.
    """

    facts: tuple[str, ...]
    accuracy: float


def balanced_accuracy(labels: np.ndarray, answers: np.ndarray) -> float:
    """Returns the mean recall of the labels that occur."""
    return float(np.mean([np.mean(answers[labels == label] == label) for label in np.unique(labels)]))


def columns_of(numbers: Mapping[str, np.ndarray], cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns fact → float32 [N, K], one column a quantile, or a camera; no fact that is the same for all images."""
    found = {}
    for name, values in numbers.items():
        edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
        found[name] = np.eye(len(edges) + 1, dtype=np.float32)[np.searchsorted(edges, values, side="right")]
    names = [name for name, _ in collections.Counter(cameras).most_common(_CAMERAS)]
    found["camera"] = np.array([[camera == name for name in names] for camera in cameras], np.float32)
    return {name: columns for name, columns in found.items() if np.any(columns != columns[0])}


def find_shortcuts(
    columns: Mapping[str, np.ndarray], labels: np.ndarray, folds: np.ndarray, *, num_classes: int
) -> list[Shortcut]:
    """Asks about the labels by all facts together, then by each alone, the best first.

    Args:
      columns: of `columns_of`.
      labels: int [N].
      folds: int [N], of `probe.deal_folds`.
      num_classes: of the dataset.
    """
    if not columns:
        return []
    asked = folds >= 0

    def ask(*names: str) -> Shortcut:
        features = np.concatenate([columns[name] for name in names], axis=1)
        found = out_of_fold(features, labels, folds, num_classes=num_classes, strength=_STRENGTH)
        answers = found[asked].argmax(axis=1)
        return Shortcut(facts=names, accuracy=balanced_accuracy(labels[asked], answers))

    alone = sorted((ask(name) for name in columns), key=lambda one: -one.accuracy)
    return [ask(*columns), *alone]
