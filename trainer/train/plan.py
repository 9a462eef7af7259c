"""Says what a run is to do (`Plan`) and how far it has come (`Position`)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import dataset
from pipeline.augment.render import finish
from pipeline.batching import HostSlice
from pipeline.format import storage
from pipeline.format.manifest import TRAIN, DatasetVersion
from pipeline.resident import Resident
from trainer.models import backbone_info
from trainer.recipes.recipe import SELECTION_METRICS, Recipe
from trainer.train.evaluation import Metrics
from trainer.train.selection import as_score, score


@dataclasses.dataclass
class Position:
    """Records how far training is; saved with every checkpoint.

    Attributes:
      phase: index of the phase.
      step: steps of the phase done.
      sums: loss, correct predictions and weight summed over the epoch so far.
      rows: metrics rows written.
      best: validation metrics, and where, of the weights kept so far; None before the first validation.
      head: validation metrics of the head beside its frozen backbone, and where; None before.
      phase_best: best value of the selection's metric in the phase, and the epoch that reached it first; None at first.
    """

    phase: int = 0
    step: int = 0
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    rows: int = 0
    best: dict[str, Any] | None = None
    phase_best: dict[str, Any] | None = None
    head: dict[str, Any] | None = None

    def begin_next_phase(self) -> None:
        self.phase, self.step, self.phase_best = self.phase + 1, 0, None

    def select(self, where: dict[str, Any], metrics: Metrics, *, by: str) -> bool:
        """Says whether to keep weights of these metrics for now, and if so notes `best`.

        Args:
          where: step, epoch and phase of the weights.
          metrics: of validation.
          by: one of `SELECTION_METRICS`.
        """
        reached, key = score(metrics, by), f"validation_{by}"
        if self.phase_best is None or reached > as_score(self.phase_best[key], by):
            self.phase_best = {"epoch": where["epoch"], key: getattr(metrics, by)}
        # Of equals the later one: it has seen more and is further down the cool-down.
        if self.best and reached < as_score(self.best[key], by):
            return False
        self.best = self.noted(where, metrics)
        return True

    def noted(self, where: dict[str, Any], metrics: Metrics) -> dict[str, Any]:
        """Returns what `best` says of weights with these metrics."""
        return where | {f"validation_{name}": getattr(metrics, name) for name in SELECTION_METRICS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Holds everything that a run needs besides the model.

    Attributes:
      recipe: what to do.
      data: what to do it with.
      seed: of data order, augmentation, dropout and the head's first weights.
      run: where results go.
      class_weights: float32 [C]; see TrainStep.
      stop_requested: asked after every host call; True saves a checkpoint and stops.
      save_requested: asked after every host call; True saves a checkpoint.
      at_once: opens a block that a stop ends at once, where there is no state to be saved.
      saving: opens a block that comes to its end before a stop ends the process, see `Wishes`.
      check_owner: asked before anything is written; raises TryAgainError where the run is another process' by now.
      profile: whether to write a TensorBoard profile of a few steps of every phase.
      cache: of images between epochs on the host, see `reader.CACHES`.
      resident: the images, where they lie on the devices instead.
    """

    recipe: Recipe
    data: DatasetVersion
    seed: int
    run: storage.Path
    class_weights: np.ndarray
    stop_requested: Callable[[], bool]
    save_requested: Callable[[], bool] = lambda: False
    at_once: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    saving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    check_owner: Callable[[], None] = lambda: None
    profile: bool = False
    cache: str = "auto"
    resident: Resident | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.batches(TRAIN)

    def batches(self, split: str) -> int:
        """Counts the batches of a split."""
        return math.ceil(self.data.manifest.num_examples(split) / self.recipe.batch_size)

    def first_step(self, phase: int) -> int:
        """Counts the steps of all phases before `phase`."""
        return sum(p.steps(steps_per_epoch=self.steps_per_epoch) for p in self.recipe.phases[:phase])

    def first_epoch(self, phase: int) -> int:
        """Counts the epochs of all phases before `phase`; one that ends within an epoch has used up its data order."""
        per_epoch = self.steps_per_epoch
        return sum(math.ceil(p.steps(steps_per_epoch=per_epoch) / per_epoch) for p in self.recipe.phases[:phase])

    def epochs_begun(self, position: Position) -> int:
        """Counts the epochs of the run up to `position`, the one that it is in included."""
        return self.first_epoch(position.phase) + math.ceil(position.step / self.steps_per_epoch)

    def is_epoch_trained(self, position: Position) -> bool:
        """Says whether an epoch of the phase, or its last part, is trained but not yet validated."""
        total = self.recipe.phases[position.phase].steps(steps_per_epoch=self.steps_per_epoch)
        return position.sums[2] > 0 and (position.step == total or position.step % self.steps_per_epoch == 0)

    def stale_epochs(self, position: Position) -> int:
        """Counts the epochs since validation was last better than ever in this phase; 0 before the first validation."""
        if position.phase_best is None:
            return 0
        return self.epochs_begun(position) - position.phase_best["epoch"]

    def eval_data(
        self, split: str, *, skip_batches: int = 0, in_part: bool = False
    ) -> Callable[[HostSlice], tf.data.Dataset]:
        """Returns a factory of the split's un-augmented batches, without the first ones.

        Args:
          split: its name.
          skip_batches: number of batches to leave out.
          in_part: whether only some batches will be read, so that there is nothing to be kept.
        """
        return lambda host: dataset.eval_dataset(
            self.data,
            split,
            height=self.recipe.image_size,
            width=self.recipe.image_size,
            preprocess=backbone_info(self.recipe.backbone).preprocess,
            global_batch_size=self.recipe.batch_size,
            skip_batches=skip_batches,
            view=self.recipe.view,
            host=host,
            cache="none" if in_part and not self.resident else self._cache,
            on_accelerator=self.recipe.augment.on_accelerator,
        )

    def train_data(self, *, epoch: int, skip_batches: int, augment: bool) -> Callable[[HostSlice], tf.data.Dataset]:
        """Returns a factory of one epoch's training batches."""
        return lambda host: dataset.train_dataset(
            self.data,
            TRAIN,
            height=self.recipe.image_size,
            width=self.recipe.image_size,
            preprocess=backbone_info(self.recipe.backbone).preprocess,
            augment=self.recipe.augmentation(augment),
            seed=self.seed,
            epoch=epoch,
            global_batch_size=self.recipe.batch_size,
            view=self.recipe.view,
            skip_batches=skip_batches,
            host=host,
            cache=self._cache,
        )

    @property
    def _cache(self) -> str:
        return "device" if self.resident else self.cache

    def images(self, batch: Mapping[str, tf.Tensor], *, augment: bool) -> tf.Tensor:
        """Does to a batch of `train_data` or `eval_data` what the host has left to be done, see `render.finish`."""
        mode = backbone_info(self.recipe.backbone).preprocess
        return finish(batch, self.recipe.augmentation(augment), mode, self.resident)

    def with_images(self) -> Plan:
        """Returns the plan whose batches hold images, wherever they lie; to look at some."""
        return dataclasses.replace(self, resident=None, cache="none") if self.resident else self


def class_weights(recipe: Recipe, data: DatasetVersion) -> np.ndarray:
    """Returns float32 [C]: all 1, or for `balanced` N / (C · count of the label), as scikit-learn's `class_weight`."""
    if recipe.class_weights == "none":
        return np.ones(data.manifest.num_classes, np.float32)
    counts = np.array(data.label_counts(TRAIN))
    return (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)
