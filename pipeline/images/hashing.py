"""Makes a perceptual hash of 72 bytes: the signs and coarse magnitudes of an image's 143 lowest cosine frequencies.

Against the usual 64-bit hashes (pHash, https://www.phash.org; dHash) it keeps two bits of magnitude more per frequency.
That is enough to work out, from the hash alone, the hash of a mirrored or cropped version of the image (the transform
from an image's cosine series to that of a window of it is linear), so copies that were cropped or flipped are found by
comparing with what such a copy would look like, not by tolerating a large distance.
"""

from __future__ import annotations

import math

import numpy as np

SIDE = 64  # luma samples a side that `perceptual_hashes` wants
HASH_BYTES = 72
FREQUENCIES = 12  # per axis
COEFFICIENTS = FREQUENCIES * FREQUENCIES

# (left, top, right, bottom): parts of the image's sides that a copy may have lost. Crops of up to 5 % of a side on each
# side are at most 2.5 % off one of these.
WINDOWS = (
    (0.0, 0.0, 0.0, 0.0),
    (0.025, 0.025, 0.025, 0.025),
    (0.05, 0.05, 0.05, 0.05),
    (0.05, 0.05, 0.0, 0.0),
    (0.0, 0.05, 0.05, 0.0),
    (0.05, 0.0, 0.0, 0.05),
    (0.0, 0.0, 0.05, 0.05),
    (0.05, 0.0, 0.0, 0.0),
    (0.0, 0.05, 0.0, 0.0),
    (0.0, 0.0, 0.05, 0.0),
    (0.0, 0.0, 0.0, 0.05),
)

# Below this contrast (standard deviation of the low frequencies, grey levels of 255) there is no structure to go by.
_MIN_CONTRAST = 2.0
_LEVELS_PER_SIGMA = 3.5


def _cosines(x: np.ndarray, count: int) -> np.ndarray:
    """Evaluates orthonormal cosine functions on [0, 1) at `x`: float64 [count, len(x)]."""
    basis = math.sqrt(2) * np.cos(np.pi * np.arange(count)[:, None] * x[None])
    basis[0] = 1
    return basis


def _midpoints(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _window_map(lost_before: float, lost_after: float) -> np.ndarray:
    """Returns the matrix [FREQUENCIES, FREQUENCIES] from a cosine series on [0, 1) to the one on a window of it."""
    x = _midpoints(512)
    seen = _cosines(lost_before + x * (1 - lost_before - lost_after), FREQUENCIES)
    return _cosines(x, FREQUENCIES) @ seen.T / len(x)


# The hash is computed in float64, so that no other machine's rounding changes it.
_ANALYSIS = _cosines(_midpoints(SIDE), FREQUENCIES) / SIDE
# Photographs' spectra fall with the frequency; this makes all coefficients about equally large.
_WHITEN = np.hypot(*np.mgrid[:FREQUENCIES, :FREQUENCIES])


def _cut_map() -> np.ndarray:
    """Returns the matrix from an image's whitened series to those of its windows.

    float64 [COEFFICIENTS, len(WINDOWS) * COEFFICIENTS].
    """
    unwhiten = np.divide(1, _WHITEN, out=np.zeros_like(_WHITEN), where=_WHITEN > 0)
    maps = [np.kron(_window_map(top, bottom), _window_map(left, right)) for left, top, right, bottom in WINDOWS]
    return np.concatenate([(_WHITEN.reshape(-1, 1) * m * unwhiten.reshape(-1)).T for m in maps], axis=1)


_CUT = _cut_map().astype(np.float32)
# What mirroring left to right does to a flattened series.
MIRROR = np.tile((-1.0) ** np.arange(FREQUENCIES), FREQUENCIES).astype(np.float32)


def perceptual_hashes(lumas: np.ndarray) -> list[bytes]:
    """Computes the hashes of images.

    Args:
      lumas: uint8 [n, SIDE, SIDE], sampled evenly over the whole image whatever its aspect ratio.

    Returns:
      HASH_BYTES bytes each, four bits a coefficient; b"" where an image is next to uniform and has nothing to go by.
    """
    series = (_ANALYSIS @ lumas.astype(np.float64) @ _ANALYSIS.T).reshape(-1, COEFFICIENTS)
    contrast = np.sqrt(np.square(series[:, 1:]).sum(axis=1))
    white = series * _WHITEN.reshape(-1)
    scale = _LEVELS_PER_SIGMA**2 / np.maximum(np.sqrt(np.square(white).mean(axis=1, keepdims=True)), 1e-9)
    steps = np.minimum(np.rint(np.sqrt(np.abs(white) * scale)), 7)
    nibbles = (np.copysign(steps, white) + 8).astype(np.uint8)
    packed = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    return [row.tobytes() if enough else b"" for row, enough in zip(packed, contrast >= _MIN_CONTRAST, strict=True)]


def levels(hashes: np.ndarray) -> np.ndarray:
    """Unpacks hashes, uint8 [n, HASH_BYTES], into their coefficients' levels, -7 to 7, int8 [n, COEFFICIENTS]."""
    return np.stack([hashes >> 4, hashes & 15], axis=-1).reshape(len(hashes), COEFFICIENTS).astype(np.int8) - 8


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def describe(hashes: np.ndarray) -> np.ndarray:
    """Turns hashes into unit vectors whose dot product is the images' similarity.

    uint8 [n, HASH_BYTES] become float32 [n, COEFFICIENTS].
    """
    return _unit(levels(hashes).astype(np.float32))


def describe_windows(hashes: np.ndarray) -> np.ndarray:
    """Computes the vectors of the images cut to each of WINDOWS: float32 [n, len(WINDOWS), COEFFICIENTS]."""
    steps = levels(hashes).astype(np.float32)
    cut = ((np.abs(steps) * steps) @ _CUT).reshape(len(hashes), len(WINDOWS), COEFFICIENTS)
    return _unit(np.sign(cut) * np.sqrt(np.abs(cut)))
