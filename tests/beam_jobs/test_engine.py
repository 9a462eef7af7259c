"""Tests which runner a build gets, and that wrong options end in one line."""

import os

import pytest

from beam_jobs import engine
from pipeline.command import UsageError


@pytest.mark.parametrize(
    ("arguments", "mode", "processes", "decoders"),
    [
        ([], "python", 1, len(os.sched_getaffinity(0))),
        (["--direct_running_mode=in_memory", "--direct_num_workers=8"], "python", 1, 8),
        (["--direct_num_workers=3"], "python", 1, 3),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], "subprocess", 2, 1),
        (["--direct_running_mode=multi_processing"], "subprocess", len(os.sched_getaffinity(0)), 1),
        (["--runner=DirectRunner", "--direct_num_workers=3"], "python", 1, 3),
    ],
)
def test_the_local_runner_uses_the_cores(arguments, mode, processes, decoders):
    options = engine.parse_options(arguments, own_flags=())
    chosen, count = engine.choose_runner(options, arguments)
    assert mode in chosen._default_environment.to_runner_api(None).urn
    assert options.view_as(engine.DirectOptions).direct_num_workers == processes
    assert count == decoders


def test_another_engine_is_left_alone():
    options = engine.parse_options(["--runner=FlinkRunner"], own_flags=())
    assert engine.choose_runner(options, ["--runner=FlinkRunner"]) == (None, 1)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--direct_num_workers=two", "invalid int"),
        ("--direct_running_mode=quick", "invalid choice"),
        ("--direct_running_mode=multi_threading", "Beam loses rows"),
        ("--runner=DaskRunner", "loses outputs"),
        ("--sead=1", 'Did you mean "seed"'),
        ("stray", "unexpected argument"),
    ],
)
def test_wrong_options_are_refused(argument, problem):
    with pytest.raises(UsageError, match=problem):
        engine.parse_options([argument], own_flags=["seed"])
