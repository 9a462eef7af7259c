"""Keeps the weights that a run ends with, in best.npz: which ones, `trainer.train.selection` decides.

Candidates are the last weights, those of the best epoch, and, where a frozen backbone's head was trained first, that
head, by its loss: fine-tuning may leave a model that is surer of itself than it is right. The last are kept, unless
another is better by more than luck.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from absl import logging

from pipeline.linear.calibration import fit_temperature, with_temperature
from trainer.recipes.recipe import Recipe
from trainer.train.checkpoint import Checkpoints, Snapshot
from trainer.train.evaluation import Metrics, compute_metrics
from trainer.train.plan import Position
from trainer.train.selection import LEVEL, Outcomes, luck


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validated:
    """Holds what some weights make of the validation split.

    Attributes:
      log_probabilities: float32 [N, C], nats.
      labels: int [N], the true ones.
      sample: metrics of a sample of the training split.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    sample: Metrics

    @functools.cached_property
    def metrics(self) -> Metrics:
        return compute_metrics(self.log_probabilities, self.labels)

    @functools.cached_property
    def outcomes(self) -> Outcomes:
        """Returns what these weights make of each example, at the temperature that suits them best."""
        temperature = fit_temperature(self.log_probabilities, self.labels)
        return Outcomes.of(with_temperature(self.log_probabilities, temperature), self.labels)


class Keeper:
    """Keeps weights as training goes on; only the chief writes."""

    def __init__(self, checkpoints: Checkpoints, weights: Snapshot, recipe: Recipe, *, is_chief: bool) -> None:
        """Takes where weights go, and the snapshot of the model's."""
        self._checkpoints, self._weights, self._recipe, self._is_chief = checkpoints, weights, recipe, is_chief

    def after_epoch(self, position: Position, where: dict[str, Any], validated: Validated) -> bool:
        """Keeps an epoch's weights if none were better so far; says whether they are the best."""
        best = position.select(where, validated.metrics, by=self._recipe.selection_metric)
        if best and self._recipe.selection == "best":
            self._save(validated.outcomes)
        return best

    def after_head(self, position: Position, where: dict[str, Any], validated: Validated) -> None:
        """Keeps a trained head beside its frozen backbone, for the run's end."""
        if self._recipe.selection == "last":
            return
        position.head = position.noted(where, validated.metrics)
        if self._is_chief:
            self._checkpoints.save_head(self._weights, validated.outcomes)

    def at_the_end(self, position: Position, where: dict[str, Any], validated: Validated | None) -> None:
        """Keeps the run's last weights, unless an earlier epoch's or the head's are better."""
        if validated is None or self._recipe.selection == "last":
            self._save()
            return
        if not self._is_chief or not position.best or self._earlier_is_better(position, where, validated):
            return
        if position.best["step"] != where["step"]:
            position.best = position.noted(where, validated.metrics)
            self._save(validated.outcomes)
        if position.head and self._head_is_better(position.head, validated):
            self._checkpoints.keep_head()
            position.best = position.head

    def _earlier_is_better(self, position: Position, where: dict[str, Any], validated: Validated) -> bool:
        by, earlier = self._recipe.selection_metric, position.best
        if not earlier or earlier["step"] == where["step"]:
            return False
        known = self._checkpoints.best_outcomes()
        chance = luck(known, validated.outcomes, by) if known else 1.0
        logging.info(
            "validation %s of epoch %d is %.4f, that of the last epoch %.4f: luck alone would do as much with a "
            "probability of %.2f; the %s weights are kept", by, earlier["epoch"], earlier[f"validation_{by}"],
            getattr(validated.metrics, by), chance, "earlier" if chance <= LEVEL else "last",
        )  # fmt: skip
        return chance <= LEVEL

    def _head_is_better(self, head: dict[str, Any], validated: Validated) -> bool:
        if (known := self._checkpoints.head_outcomes()) is None:
            return False
        chance = luck(known, validated.outcomes, "loss")
        logging.info(
            "validation loss, at its best temperature, of the head of phase %s is %.4f, that of the last epoch %.4f: "
            "luck alone would do as much with a probability of %.2f; the %s is kept", head["phase"],
            known.losses.mean(), validated.outcomes.losses.mean(), chance, "head" if chance <= LEVEL else "last epoch",
        )  # fmt: skip
        return chance <= LEVEL

    def _save(self, outcomes: Outcomes | None = None) -> None:
        if self._is_chief:
            self._checkpoints.save_best(self._weights, outcomes)
