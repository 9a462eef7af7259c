"""Forecasts of a run's rest, against the run as it then goes: its times are made up, and added up one by one."""

import pytest

from trainer.train.forecast import Forecast, Stretch, Timed
from trainer.train.progress import epoch_line

EXPORT = 30.0


def simulate(*, forward, step, first, validation, evaluation, phases, per_epoch):
    """Runs what a forecast sees; yields after each epoch what it says, and what really was left."""
    forecast = Forecast(phases, validation=validation, evaluation=evaluation)
    clock, told = 0.0, []
    if phases[0].cached:
        forecast.saw_forward(batches=per_epoch, seconds=per_epoch * forward)
    for number, phase in enumerate(phases):
        each, done = (0.001, 0) if phase.cached else (step, 0)
        late = 0.0 if phase.cached else first
        while done < phase.steps:
            count = min(per_epoch, phase.steps - done)
            end = 0.01 if phase.cached else validation * forward
            taken = Timed(steps=count, seconds=count * each + late, each=each)
            done, clock, late = done + count, clock + count * each + late + end, 0.0
            forecast.saw_epoch(number, taken, end=end)
            told.append((number, clock, forecast.left(number, done)))
    total = clock + evaluation * forward + EXPORT
    return [(number, left, total - at) for number, at, left in told]


def test_a_run_whose_steps_are_known_is_forecast_to_the_second():
    phases = [Stretch(steps=40, epochs=4, cached=False)]
    told = simulate(
        forward=0.5, step=2.0, first=20.0, validation=4, evaluation=6, phases=phases, per_epoch=10
    )  # fmt: skip
    assert len(told) == 4
    for _, left, truth in told:
        assert left == pytest.approx(truth, abs=0.5)


def test_after_a_head_on_features_what_nobody_has_timed_is_forecast_within_a_factor_of_two():
    phases = [Stretch(steps=1, epochs=1, cached=True), Stretch(steps=60, epochs=15, cached=False)]
    for passes in (1.3, 2.0, 3.0):  # a step of the upper part of a backbone, or of all
        told = simulate(
            forward=1.0, step=passes, first=10.0, validation=2, evaluation=2, phases=phases, per_epoch=4
        )  # fmt: skip
        (_, at_first, truth), (_, later, later_truth) = told[:2]
        assert truth / 2 < at_first < 2 * truth
        assert later == pytest.approx(later_truth, rel=0.02)


def test_nothing_is_said_before_anything_is_known():
    assert Forecast([Stretch(steps=9, epochs=3, cached=False)], validation=1, evaluation=1).left(0, 0) is None


def test_an_epoch_without_validation_is_a_line_too():
    line = epoch_line(
        "head 2/3", loss=0.0654, accuracy=0.98361, validated=None, by="accuracy", best=False, left=None
    )  # fmt: skip
    assert line == "head 2/3 loss 0.065 acc 0.984"
