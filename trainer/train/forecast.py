"""Forecasts how long the rest of a run takes, from what its parts have taken so far: roughly, for people who wait."""

from __future__ import annotations

import dataclasses
import math

from pipeline.format.manifest import TEST, TRAIN, VALIDATION
from trainer.train.plan import Plan

# A step of what nobody has timed yet, in passes forward: one there, one back. Phases that come later train the upper
# part of a backbone, or all of it, which would be 3.
_PASSES_A_STEP = 2.0
_REST_SECONDS = 30.0  # what an export and a report take beside the images that are evaluated, on two cores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """Describes a phase.

    Attributes:
      steps: of it.
      epochs: of it, begun ones too.
      cached: whether it trains on features, which takes next to nothing.
    """

    steps: int
    epochs: int
    cached: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """Holds how long the steps of an epoch took.

    Attributes:
      steps: their number.
      seconds: that all took.
      each: seconds that one took, but for the first call, which may compile; None where there was no other.
    """

    steps: int
    seconds: float
    each: float | None


class Forecast:
    """Adds up what is left of a run's phases, of their validation, of the evaluation at the end and of the export."""

    def __init__(self, phases: list[Stretch], *, validation: int, evaluation: int) -> None:
        """Knows no time yet.

        Args:
          phases: in their order.
          validation: batches that the model is asked about after each epoch.
          evaluation: batches that it is asked about at the end.
        """
        self._phases, self._validation, self._evaluation = phases, validation, evaluation
        self._forward: float | None = None  # seconds a batch
        self._first = 0.0  # seconds that the first step of a phase took longer than others
        self._step: dict[int, float] = {}
        self._end: dict[int, float] = {}

    def saw_forward(self, *, batches: float, seconds: float) -> None:
        """Notes how long so many batches took that the model was asked about."""
        self._forward = seconds / batches

    def saw_epoch(self, phase: int, timed: Timed, *, end: float) -> None:
        """Notes how long an epoch of a phase took; its validation, and what follows, took `end` seconds."""
        each = timed.each if timed.each is not None else self._step.get(phase, timed.seconds / timed.steps)
        if phase not in self._step:
            self._first = max(0.0, timed.seconds - timed.steps * each)
        self._step[phase], self._end[phase] = each, end
        if not self._phases[phase].cached and self._validation:
            self._forward = end / self._validation

    def left(self, phase: int, step: int) -> float | None:
        """Returns the seconds until the run is over, where `step` steps of a phase are done; None where it cannot."""
        total = _REST_SECONDS + self._evaluation * (self._forward or 0.0)
        for number in range(phase, len(self._phases)):
            stretch = self._phases[number]
            each = self._each(number)
            if each is None:
                return None
            done = step if number == phase else 0
            epochs = math.ceil(stretch.epochs * (1 - done / stretch.steps)) if stretch.steps else 0
            total += (stretch.steps - done) * each + epochs * self._end_of(number)
            if number not in self._step:
                total += self._first
        return total

    def _each(self, phase: int) -> float | None:
        """Returns the seconds of a step of a phase."""
        if phase in self._step:
            return self._step[phase]
        if self._phases[phase].cached:
            return 0.0
        if timed := [each for number, each in self._step.items() if not self._phases[number].cached]:
            return timed[-1]
        return _PASSES_A_STEP * self._forward if self._forward is not None else None

    def _end_of(self, phase: int) -> float:
        if phase in self._end:
            return self._end[phase]
        return 0.0 if self._phases[phase].cached else self._validation * (self._forward or 0.0)


def forecast_of(plan: Plan) -> Forecast:
    """Returns the forecast of a whole run."""
    per_epoch, splits = plan.steps_per_epoch, plan.data.manifest.splits
    phases = []
    for phase in plan.recipe.phases:
        steps = phase.steps(steps_per_epoch=per_epoch)
        phases.append(Stretch(steps=steps, epochs=math.ceil(steps / per_epoch), cached=phase.cached_features))
    batches = {split: plan.batches(split) if split in splits else 0 for split in (TRAIN, VALIDATION, TEST)}
    # After an epoch as many training images are looked at as validation has.
    sample = min(batches[TRAIN], batches[VALIDATION])
    return Forecast(phases, validation=batches[VALIDATION] + sample, evaluation=batches[VALIDATION] + batches[TEST])
