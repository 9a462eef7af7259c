"""Fits a linear head to features: multinomial logistic regression, its l2 found by cross-validation; NumPy only.

The penalty is measured in the features' own size, so that one ladder of strengths serves every backbone and image size.
Features are divided by one number only: divided by a deviation each, they made worse heads on four data sets of four
(`benchmarks/RESULTS.md`, "Head").
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from absl import logging

from pipeline.linear.calibration import with_temperature
from pipeline.linear.lbfgs import minimize

# Examples' worth of penalty, from strong to weak. The best of five data sets lay between 0.0003 (33 images) and 0.1.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(2, -8, -1))
_STRENGTH_UNTRIED = 10**-1.5
# Of a head to fine-tune from. One that is sure of what it has seen meets augmented images with gradients that undo more
# than they teach: see "Head" in the results.
GENTLE = 1.0
_FOLDS = 5
_MOST_EXAMPLES = 5_000  # more would not move the choice by a rung of the ladder
_MOST_LOGITS = 100_000  # examples × labels of all folds that are left out: fewer folds of many labels
_RISES = 2  # rungs in a row with a higher loss: the rest of the ladder is left out
_ROWS = 16_384  # at a time
_SECONDS_BETWEEN_LINES = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearHead:
    """Holds a linear function from features to logits.

    Attributes:
      kernel: float32 [F, C].
      bias: float32 [C].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [N, C], nats, of features [N, F]."""
        return with_temperature(features @ self.kernel + self.bias, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossValidated:
    """Holds what cross-validation found.

    Attributes:
      strength: the chosen one.
      examples: int [n], the positions of those that were left out once.
      log_probabilities: float32 [n, C], nats, by heads of that strength that had not seen the example.
    """

    strength: float
    examples: np.ndarray
    log_probabilities: np.ndarray


def cross_validate(features: np.ndarray, labels: np.ndarray, *, class_weights: np.ndarray, seed: int) -> CrossValidated:
    """Finds how strong the penalty should be, by the (weighted) log-loss of heads on what they have not seen.

    It takes the strongest that is no worse than the best by more than the standard error of their difference (the
    one-standard-error rule, Breiman et al. 1984, section 3.4.3, here of paired differences). Of many examples a sample
    is taken, as of few the strength matters; of many labels fewer folds are left out.

    Args:
      features: float32 [N, F].
      labels: int [N].
      class_weights: float [C], factors of the examples' losses by their label.
      seed: of folds and sample.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(labels))[:_MOST_EXAMPLES])
    x, y, classes = features[chosen], labels[chosen], len(class_weights)
    folds = _folds(y, random)
    affordable = max(1, min(_FOLDS, _MOST_LOGITS * _FOLDS // (len(y) * classes)))
    left_out = np.flatnonzero((folds >= 0) & (folds < affordable))
    if not left_out.size:
        return CrossValidated(
            strength=_STRENGTH_UNTRIED, examples=left_out, log_probabilities=np.zeros((0, classes), np.float32)
        )
    heads: list[LinearHead | None] = [None] * affordable
    truth, factors = y[left_out], class_weights[y[left_out]]
    answers, losses, told = [], [], time.monotonic()
    for strength in STRENGTHS:
        unseen = np.zeros((len(y), classes), np.float32)
        for fold in range(affordable):
            known = folds != fold
            head = fit_head(x[known], y[known], class_weights=class_weights, strength=strength, start=heads[fold])
            unseen[~known] = head.log_probabilities(x[~known])
            heads[fold] = head
        answers.append(unseen[left_out])
        losses.append(-factors * answers[-1][np.arange(len(truth)), truth])
        if time.monotonic() > told + _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            logging.info(
                "comparing heads on %d images: %d of at most %d strengths of l2, loss %.4f, best %.4f", len(truth),
                len(losses), len(STRENGTHS), losses[-1].mean(), losses[_best(losses)].mean(),
            )  # fmt: skip
        if len(losses) - 1 - _best(losses) == _RISES:
            break
    rung = _strongest_as_good(losses)
    return CrossValidated(strength=STRENGTHS[rung], examples=chosen[left_out], log_probabilities=answers[rung])


def _best(losses: Sequence[np.ndarray]) -> int:
    return int(np.argmin([loss.mean() for loss in losses]))


def _strongest_as_good(losses: Sequence[np.ndarray]) -> int:
    """Returns the first of some rungs, [n] losses each, that is as good as the best but for a standard error."""
    more = [loss - losses[_best(losses)] for loss in losses]
    return next(rung for rung, gap in enumerate(more) if gap.mean() <= gap.std() / np.sqrt(len(gap)))


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    class_weights: np.ndarray,
    strength: float,
    start: LinearHead | None = None,
) -> LinearHead:
    """Returns the head with the smallest sum of the examples' cross-entropies and a penalty, found by L-BFGS.

    The penalty is strength · mean ‖feature‖² · ‖kernel‖² / 2: the bias is free.

    Args:
      features: float32 [N, F].
      labels: int [N].
      class_weights: float [C], factors of the examples' cross-entropies by their label.
      strength: of the penalty, in examples.
      start: a head of the same shape to begin with; zeros if None.
    """
    classes, width = len(class_weights), features.shape[1]
    size = float(np.sqrt(np.einsum("nf,nf->", features, features, dtype=np.float64) / len(features))) or 1.0
    weights = class_weights[labels].astype(np.float32)
    total = float(weights.sum(dtype=np.float64))
    penalty = strength / total

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[:-classes].reshape(width, classes), flat[-classes:].astype(np.float32)
        kernel_in_use = (kernel / size).astype(np.float32)
        loss, kernel_slope, bias_slope = penalty * float((kernel**2).sum()) / 2, penalty * kernel, np.zeros(classes)
        for first in range(0, len(labels), _ROWS):
            rows = slice(first, first + _ROWS)
            log_probabilities = with_temperature(features[rows] @ kernel_in_use + bias, 1.0)
            picked = np.arange(len(log_probabilities)), labels[rows]
            loss -= float((weights[rows] * log_probabilities[picked]).sum(dtype=np.float64)) / total
            residual = np.exp(log_probabilities)
            residual[picked] -= 1
            residual *= (weights[rows] / np.float32(total))[:, np.newaxis]
            kernel_slope += (features[rows].T @ residual) / size
            bias_slope += residual.sum(axis=0)
        return loss, np.concatenate([kernel_slope.ravel(), bias_slope])

    first_guess = np.zeros((width + 1) * classes)
    if start:
        first_guess = np.concatenate([(start.kernel * size).ravel(), start.bias])
    solved = minimize(objective, first_guess)
    kernel = solved[:-classes].reshape(width, classes) / size
    return LinearHead(kernel=kernel.astype(np.float32), bias=solved[-classes:].astype(np.float32))


def _folds(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deals the examples of each label to folds, int [N]; −1: the only one of its label is always learnt from."""
    folds = np.full(len(labels), -1)
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        if len(places) > 1:
            folds[places] = (np.arange(len(places)) + random.integers(_FOLDS)) % _FOLDS
    return folds
