"""Runs the training loop: phases, epochs, selection on validation, checkpoints; resumes where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.batching import HostSlice
from pipeline.command import TryAgainError
from pipeline.format import storage
from pipeline.format.manifest import TRAIN, VALIDATION
from trainer.devices.workers import Workers
from trainer.models.classifier import Classifier
from trainer.recipes.recipe import SELECTION_METRICS
from trainer.train.checkpoint import Checkpoints, Snapshot, model_weights, training_state
from trainer.train.evaluation import Metrics, compute_metrics
from trainer.train.features import FeatureCache
from trainer.train.feed import distribute
from trainer.train.forecast import Timed, forecast_of
from trainer.train.guards import check_finite, images_per_second, starvation
from trainer.train.keep import Keeper, Validated
from trainer.train.metrics import CROSS_VALIDATION, TRAIN_SAMPLE, MetricsLog
from trainer.train.pace import Pace
from trainer.train.plan import Plan, Position
from trainer.train.predictor import Predictor
from trainer.train.progress import COMPILING, Progress, epoch_line
from trainer.train.solve import soften_head, solve_head
from trainer.train.step import TrainStep

_SECONDS_BETWEEN_CHECKPOINTS = 60.0  # at least; more where training waits for them for more than this share
_SHARE_FOR_CHECKPOINTS = 0.03
_SHOWN_IMAGES = 16
_SECONDS_FOR_INPUT_RATE = 2.0
_SAMPLE = 512  # training images at most that are looked at as validation's are


def next_save(started: float, ended: float, *, written: float) -> float:
    """Says when the next checkpoint is due, after one for which training waited; seconds of one clock.

    Args:
      started: when the wait began.
      ended: when training went on.
      written: seconds that writing takes meanwhile; half of the time at most, as it shares the machine.
    """
    return ended + max(_SECONDS_BETWEEN_CHECKPOINTS, (ended - started) / _SHARE_FOR_CHECKPOINTS, 2 * written)


def _values(metrics: Metrics) -> dict[str, Any]:
    return {name: getattr(metrics, name) for name in ("examples", *SELECTION_METRICS)}


class Trainer:
    """Runs the phases of a plan on a classifier."""

    def __init__(self, plan: Plan, classifier: Classifier, strategy: tf.distribute.Strategy) -> None:
        self._plan, self._classifier, self._strategy = plan, classifier, strategy
        self._workers = Workers(strategy)
        self._metrics = MetricsLog(plan.run, writes=self._workers.is_chief)
        self._checkpoints = Checkpoints(storage.join(plan.run, "checkpoints"), writing=plan.saving)
        self._keeper = Keeper(
            self._checkpoints, Snapshot(model_weights(classifier)), plan.recipe, is_chief=self._workers.is_chief
        )
        self._save_next_at = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS
        self._input_checked = False
        self._forecast = forecast_of(plan)
        self.predictor = Predictor(plan, classifier, strategy)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of metrics written so far."""
        return self._metrics.rows

    def _remove_features(self, *, from_phase: int) -> None:
        """Removes features from disk that no phase from `from_phase` on trains on."""
        if self._workers.is_chief and not any(p.cached_features for p in self._plan.recipe.phases[from_phase:]):
            self.predictor.remove_features()

    def train(self) -> Position:
        """Trains from the newest usable checkpoint (or from the start) to the end.

        Raises:
          TryAgainError: asked to stop; the state is saved.
          CommandError: the loss is no longer a finite number.
        """
        position, step, state = self._resume()
        if (
            self._workers.is_chief
            and position == Position()
            and any(phase.augment for phase in self._plan.recipe.phases)
        ):
            self._show_first_images()
        phases = self._plan.recipe.phases
        try:
            while True:
                self._remove_features(from_phase=position.phase)
                self._train_phase(position, step, state)
                if position.phase + 1 == len(phases):
                    self._save(position, state)
                    self._checkpoints.wait()
                    self._remove_features(from_phase=len(phases))
                    if self._workers.is_chief:
                        self._checkpoints.remove_head()
                    return position
                position.begin_next_phase()
                step, state = self._build(position.phase)
                self._save(position, state)
        except tf.errors.OpError:
            self._plan.check_owner()  # whoever has taken the run over clears away what this process was writing
            raise

    def _show_first_images(self) -> None:
        plan = self._plan.with_images()
        batches = plan.train_data(epoch=0, skip_batches=0, augment=True)(HostSlice())
        images = plan.images(next(iter(batches)), augment=True)
        self._metrics.show_images("augmented", images[:_SHOWN_IMAGES], step=0)

    def _build(self, phase: int) -> tuple[TrainStep, Snapshot]:
        """Returns the training step of a phase, and what its checkpoints hold."""
        plan = self._plan
        config = plan.recipe.phases[phase]
        with self._strategy.scope():
            step = TrainStep(
                classifier=self._classifier,
                recipe=plan.recipe,
                phase=config,
                rates=config.learning_rates(steps_per_epoch=plan.steps_per_epoch),
                class_weights=plan.class_weights,
                strategy=self._strategy,
                seed=plan.seed + phase,
                resident=plan.resident,
            )
        return step, Snapshot(training_state(self._classifier, step.optimizers, step.average))

    def _resume(self) -> tuple[Position, TrainStep, Snapshot]:
        candidates = self._checkpoints.candidates()
        # Before any variable is made: that already takes all workers.
        found = [progress for _, progress in candidates]
        self._workers.require_same(found, what="--run, one folder on gs:// or NFS with the same checkpoints,")
        for path, progress in candidates:
            position = Position(**progress)
            step, state = self._build(position.phase)
            if all(self._workers.gather(self._checkpoints.restore(path, state))):
                self._metrics.rewind(position.rows)
                name = self._plan.recipe.phases[position.phase].name
                logging.info("resuming phase %s at step %d (%s)", name, position.step, path)
                return position, step, state
        self._metrics.rewind(0)
        return Position(), *self._build(0)

    def _save(self, position: Position, state: Snapshot) -> None:
        started = time.monotonic()
        position.rows = len(self._metrics.rows)
        if self._workers.is_chief:  # it has everything: all workers hold the same variables
            self._plan.check_owner()
            number = self._plan.first_step(position.phase) + position.step + position.phase
            self._checkpoints.save(dataclasses.asdict(position), state, number=number)
        self._save_next_at = next_save(started, time.monotonic(), written=self._checkpoints.seconds)

    def _save_if_due(self, position: Position, state: Snapshot) -> None:
        """Saves now and then; when asked to stop, saves and raises TryAgainError."""
        stop = any(self._workers.gather(self._plan.stop_requested()))  # one worker's signal stops all
        due = not self._checkpoints.is_writing() and time.monotonic() > self._save_next_at
        if not stop:
            if self._plan.save_requested() or due:
                self._save(position, state)
            return
        with self._plan.saving():
            self._save(position, state)
            self._checkpoints.wait()
            self._workers.wait()  # nobody leaves before the chief has saved: it would look like a crash
            raise TryAgainError(
                f"stopped on request in phase {self._plan.recipe.phases[position.phase].name} at step {position.step}; "
                "the state is saved, run the same command again to go on"
            )

    def _train_phase(self, position: Position, step: TrainStep, state: Snapshot) -> None:
        plan = self._plan
        phase = plan.recipe.phases[position.phase]
        per_epoch = plan.steps_per_epoch
        total = phase.steps(steps_per_epoch=per_epoch)
        rates = phase.learning_rates(steps_per_epoch=per_epoch)
        if not phase.solves:
            logging.info(
                "phase %s: %s = %d steps of %d, learning rate %g to %g", phase.name, phase.duration, total,
                plan.recipe.batch_size, rates.min(), rates.max(),
            )  # fmt: skip
        begun = position.step < total or position.sums[2] or phase.solves
        cache = self._cache_features() if phase.cached_features and begun else None
        if phase.solves and cache and position.step < total:
            self._solve(position, cache)
        pace = Pace(plan.recipe.steps_per_call, fixed=self._workers.count > 1)
        progress = Progress(phase.name, done=position.step, total=total, at_first=COMPILING)
        try:
            while position.step < total or position.sums[2]:
                rate, begun_at, first = 0.0, time.monotonic(), position.step
                if not plan.is_epoch_trained(position):  # else a stop came while it was validated
                    rate = self._train_epoch(position, step, state, total, rates, cache, progress, pace)
                timed = Timed(
                    steps=position.step - first,
                    seconds=time.monotonic() - begun_at,
                    each=plan.recipe.batch_size / rate if rate else None,
                )
                try:
                    self._end_epoch(position, step, rates, cache, timed, progress)
                except TryAgainError:
                    with plan.saving():
                        self._save(position, state)
                        self._checkpoints.wait()
                    raise
                if rate and cache is None and self._workers.is_chief and not self._input_checked:
                    self._check_input(position, rate)
                self._save_if_due(position, state)
        finally:
            progress.close()
        step.keep_average()
        if phase.solves and cache and position.phase + 1 < len(plan.recipe.phases):
            soften_head(self._classifier, cache, plan, self._workers)

    def _solve(self, position: Position, cache: FeatureCache) -> None:
        solved = solve_head(self._classifier, cache, self._plan, self._workers)
        position.step, position.sums = 1, solved.sums
        if solved.cross_validation:
            self._metrics.add(**self._where(position), split=CROSS_VALIDATION, **_values(solved.cross_validation))

    def _where(self, position: Position) -> dict[str, Any]:
        """Returns what the metrics' rows of an epoch begin with."""
        plan = self._plan
        return {
            "step": plan.first_step(position.phase) + position.step,
            "epoch": plan.epochs_begun(position),
            "phase": plan.recipe.phases[position.phase].name,
        }

    def _place(self, position: Position) -> str:
        """Names the phase, and says how many of its epochs have begun."""
        plan, phase = self._plan, self._plan.recipe.phases[position.phase]
        epochs = math.ceil(phase.steps(steps_per_epoch=plan.steps_per_epoch) / plan.steps_per_epoch)
        return f"{phase.name} {plan.epochs_begun(position) - plan.first_epoch(position.phase)}/{epochs}"

    def _cache_features(self) -> FeatureCache:
        plan = self._plan
        start, before = time.monotonic(), self.predictor.computed_features
        splits = {
            split: tuple(tf.constant(array) for array in self.predictor.features(split))
            for split in (TRAIN, VALIDATION)
            if split in plan.data.manifest.splits
        }
        count, seconds = sum(len(labels) for _, labels in splits.values()), time.monotonic() - start
        if computed := self.predictor.computed_features - before:
            self._forecast.saw_forward(batches=computed / plan.recipe.batch_size, seconds=seconds)
        logging.info("cached the features of %d images in %.0f s (%.0f img/s)", count, seconds, count / seconds)
        return FeatureCache(splits=splits, batch_size=plan.recipe.batch_size, seed=plan.seed)

    def _epoch_data(self, position: Position, cache: FeatureCache | None) -> Callable[[HostSlice], tf.data.Dataset]:
        plan = self._plan
        done_epochs, skip = divmod(position.step, plan.steps_per_epoch)
        epoch = plan.first_epoch(position.phase) + done_epochs
        if cache:
            return cache.train_data(TRAIN, epoch=epoch, skip_batches=skip)
        return plan.train_data(epoch=epoch, skip_batches=skip, augment=plan.recipe.phases[position.phase].augment)

    def _train_epoch(
        self,
        position: Position,
        step: TrainStep,
        state: Snapshot,
        total: int,
        rates: np.ndarray,
        cache: FeatureCache | None,
        progress: Progress,
        pace: Pace,
    ) -> float:
        """Trains to the end of the epoch or phase that `position` is in; returns images/s without the first call."""
        plan = self._plan
        timed_from: float | None = None
        timed_images = 0.0
        batches = iter(distribute(self._strategy, self._epoch_data(position, cache)))
        end = min(total, (position.step // plan.steps_per_epoch + 1) * plan.steps_per_epoch)
        while position.step < end:
            count = min(pace.steps(), end - position.step)
            with self._profiled(pace), pace.timed(count):
                sums = step(batches, first_step=position.step, steps=count).astype(np.float64)
            losses = sums[:, 0] / np.maximum(sums[:, 2], 1)
            check_finite(losses, position, plan, keep_batch=self._workers.is_chief)
            images = float(sums[:, 2].sum())
            if timed_from is None:  # the first call may compile, and fills the input's buffers
                timed_from = time.monotonic()
            else:
                timed_images += images
            position.step += count
            for of_step in sums:  # one after the other: the same to the bit, however many steps a call has
                position.sums = [before + float(new) for before, new in zip(position.sums, of_step, strict=True)]
            loss, hits = (value / position.sums[2] for value in position.sums[:2])
            progress.name(self._place(position))
            left = self._forecast.left(position.phase, position.step)
            progress.update(position.step, f"loss {loss:.3f} acc {hits:.3f}", left=left)
            # At the end of an epoch its metrics come first: see _train_phase.
            if position.step < end:
                self._save_if_due(position, state)
        return timed_images / (time.monotonic() - timed_from) if timed_from else 0.0

    def _check_input(self, position: Position, rate: float) -> None:
        """Warns, once a run, if training at `rate` images/s waits for its input."""
        self._input_checked = True
        augment = self._plan.recipe.phases[position.phase].augment
        data = self._plan.train_data(epoch=0, skip_batches=0, augment=augment)
        alone = images_per_second(data, batch_size=self._plan.recipe.batch_size, seconds=_SECONDS_FOR_INPUT_RATE)
        if text := starvation(training=rate, input_alone=alone):
            logging.warning("%s", text)

    @contextlib.contextmanager
    def _profiled(self, pace: Pace) -> Iterator[None]:
        """Profiles the third host call of a phase: the first one also compiles, the second is short."""
        if not self._plan.profile or pace.calls != 2:
            yield
            return
        tf.profiler.experimental.start(storage.join(self._plan.run, "events"))
        try:
            yield
        finally:
            tf.profiler.experimental.stop()

    def _end_epoch(
        self,
        position: Position,
        step: TrainStep,
        rates: np.ndarray,
        cache: FeatureCache | None,
        timed: Timed,
        progress: Progress,
    ) -> None:
        """Writes the epoch's metrics, validates, keeps weights, and ends the phase where its patience is at an end."""
        plan = self._plan
        plan.check_owner()
        phase = plan.recipe.phases[position.phase]
        where = self._where(position)
        loss, hits, weight = position.sums
        of_training = {"loss": loss / weight, "accuracy": hits / weight}
        if not phase.solves:
            of_training["learning_rate"] = float(rates[position.step - 1])
        best, begun_at = False, time.monotonic()
        with step.averaged_weights():
            validated = self._validate(cache, progress) if VALIDATION in plan.data.manifest.splits else None
            # A stop until here leaves the epoch as trained but not validated.
            position.sums = [0.0, 0.0, 0.0]
            self._metrics.add(**where, split=TRAIN, **of_training)
            if validated:
                sample, metrics = validated.sample, validated.metrics
                self._metrics.add(**where, split=TRAIN_SAMPLE, **_values(sample))
                self._metrics.add(**where, split=VALIDATION, **_values(metrics))
                best = self._keeper.after_epoch(position, where, validated)
                if phase.patience and (stale := plan.stale_epochs(position)) >= phase.patience:
                    logging.info("phase %s: no better validation for %d epochs, stopping it early", phase.name, stale)
                    position.step = phase.steps(steps_per_epoch=plan.steps_per_epoch)
            if timed.steps:
                self._forecast.saw_epoch(position.phase, timed, end=time.monotonic() - begun_at)
            line = epoch_line(
                self._place(position),
                loss=loss / weight,
                accuracy=hits / weight,
                validated=validated.metrics if validated else None,
                by=plan.recipe.selection_metric,
                best=best,
                left=self._forecast.left(position.phase, position.step),
            )
            logging.info("%s", line)
            if position.step == phase.steps(steps_per_epoch=plan.steps_per_epoch):
                if position.phase + 1 == len(plan.recipe.phases):
                    self._keeper.at_the_end(position, where, validated)
                elif cache and validated:
                    self._keeper.after_head(position, where, validated)

    def _validate(self, cache: FeatureCache | None, progress: Progress) -> Validated:
        """Asks the model about validation, and about as many training images in the same way."""
        total = self._plan.data.manifest.num_examples(VALIDATION)
        progress.say("validating")
        log_probabilities, labels = self.predictor.log_probabilities(
            VALIDATION, cache, told=lambda done: progress.say(f"validating {done:,}/{total:,}")
        )
        sample = self.predictor.log_probabilities_of_sample(TRAIN, min(len(labels), _SAMPLE), cache)
        return Validated(log_probabilities=log_probabilities, labels=labels, sample=compute_metrics(*sample))
