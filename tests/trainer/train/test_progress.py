"""Tests of what a log is told while something long is done: a line now and then, of what is done beside it too."""

import pytest

from trainer.train import progress
from trainer.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_lines_are_half_a_minute_apart_whatever_they_tell(clock, caplog):
    caplog.set_level("INFO", logger="absl")
    shown = Progress("all 1/2", done=10, total=100, at_first="compiling")
    for step in (20, 40):
        clock[0] += 20
        shown.update(step, "loss 1.000")
    for images in (0, 600, 1200, 1800):
        shown.say(f"validating {images}/2000")
        clock[0] += 12
    shown.close()
    assert caplog.messages == [
        "all 1/2: 40/100 loss 1.000, 1 min left",  # 30 of 90 steps in 40 s: of those before nobody knows the time
        "all 1/2: validating 1800/2000",
    ]
