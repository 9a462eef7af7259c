import time

import pytest

from trainer.train.pace import Pace


def _call(pace, seconds_a_step):
    steps = pace.steps()
    with pace.timed(steps):
        time.sleep(seconds_a_step * steps)
    return steps


@pytest.mark.parametrize(("seconds_a_step", "low", "high"), [(0.0, 20, 20), (0.1, 2, 10), (1.2, 1, 1)])
def test_calls_are_long_but_not_much_longer_than_a_second(seconds_a_step, low, high):
    pace = Pace(20, fixed=False)
    assert _call(pace, 0.0) == 1  # compiles
    assert _call(pace, seconds_a_step) == 1  # is timed
    assert low <= pace.steps() <= high


def test_processes_that_do_the_same_calls_do_them_alike():
    pace = Pace(20, fixed=True)
    _call(pace, 0.001)
    assert pace.steps() == 20
