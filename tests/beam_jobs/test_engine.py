"""Tests which runner a build gets, and that wrong options end in one line."""

import subprocess
import sys

import pytest

from beam_jobs import engine
from pipeline.command import UsageError


@pytest.mark.parametrize(
    ("arguments", "images", "mode", "workers"),
    [
        ([], 10, "python", 1),
        (["--direct_running_mode=in_memory", "--direct_num_workers=8"], 10**6, "python", 1),
        (["--direct_num_workers=2"], 10, "subprocess", 2),
        (["--direct_num_workers=8"], 10**6, "subprocess", 8),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=1"], 10, "subprocess", 1),
        (["--runner=DirectRunner", "--direct_num_workers=3"], 10, "subprocess", 3),
    ],
)
def test_the_local_runner_fits_the_work(arguments, images, mode, workers):
    options = engine.parse_options(arguments, own_flags=())
    chosen = engine.choose_runner(options, arguments, images=images)
    assert mode in chosen._default_environment.to_runner_api(None).urn
    assert options.view_as(engine.DirectOptions).direct_num_workers == workers


def test_beam_comes_without_its_unused_connectors_which_others_still_find():
    code = (
        "import sys; from beam_jobs import lean_beam; lean_beam.import_beam(); lean_beam.import_beam(); "
        "import beam_jobs.graph, beam_jobs.engine, apache_beam; "
        "assert not {'pymongo', 'pyarrow'} & set(sys.modules); import pyarrow; pyarrow.array([1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_engine_is_left_alone():
    options = engine.parse_options(["--runner=FlinkRunner"], own_flags=())
    assert engine.choose_runner(options, ["--runner=FlinkRunner"], images=10) is None


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
