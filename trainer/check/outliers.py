"""Finds images unlike all others, by their distance to their neighbours among a backbone's features; NumPy only."""

from __future__ import annotations

import numpy as np

_NEIGHBOURS = 5
_FAR_OUT = 3.0  # interquartile ranges above the third quartile: Tukey's "far out"
_ROWS = 1_024  # at a time


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Returns the features, float32 [N, F], each at length 1."""
    lengths = np.sqrt(np.einsum("nf,nf->n", features, features))
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)[:, np.newaxis]


def neighbour_distances(features: np.ndarray) -> np.ndarray:
    """Returns the mean cosine distance, float32 [N], of each image to its nearest neighbours."""
    unit = unit_rows(features)
    nearest = min(_NEIGHBOURS, len(unit) - 1)
    found = np.zeros(len(unit), np.float32)
    for first in range(0, len(unit), _ROWS):
        similarity = unit[first : first + _ROWS] @ unit.T
        similarity[np.arange(len(similarity)), first + np.arange(len(similarity))] = -np.inf
        closest = np.partition(similarity, -nearest, axis=1)[:, -nearest:]
        found[first : first + _ROWS] = 1 - closest.mean(axis=1)
    return found


def find_outliers(features: np.ndarray) -> np.ndarray:
    """Returns the positions of images whose distance is far out, the farthest first."""
    if len(features) <= _NEIGHBOURS:
        return np.zeros(0, np.intp)
    distances = neighbour_distances(features)
    first, third = np.quantile(distances, (0.25, 0.75))
    positions = np.flatnonzero(distances > third + _FAR_OUT * (third - first))
    return positions[np.argsort(-distances[positions], kind="stable")]
