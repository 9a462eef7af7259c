import pathlib
import subprocess
import sys
import time

import apache_beam as beam
import pytest

from beam_jobs import runner
from pipeline.command import UsageError

_SECONDS = 2.5  # Beam's time limit for buffered output is one


def emit(name: str, directory: str):
    """Yields numbers for a while; writes into a file how many there were in the end."""
    count, end = 0, time.monotonic() + _SECONDS
    while time.monotonic() < end:
        for _ in range(100):
            count += 1
            yield name, count
    pathlib.Path(directory, f"emitted-{name}").write_text(str(count))


def arrive(element, directory: str) -> None:
    pathlib.Path(directory, f"arrived-{element[0]}").write_text(str(sum(1 for _ in element[1])))


def run(arguments, images, build):
    options = runner.parse_options(arguments, own_flags=())
    runner.run(build, options, runner.choose_runner(options, arguments, images=images))


def test_nothing_written_while_a_worker_flushes_is_lost(tmp_path):
    def build(pipeline):
        _ = (
            pipeline
            | beam.Create(["a", "b"])
            | beam.Reshuffle()
            | beam.FlatMap(emit, str(tmp_path))
            | beam.GroupByKey()
            | beam.Map(arrive, str(tmp_path))
        )

    run(["--direct_running_mode=multi_threading", "--direct_num_workers=2"], 0, build)
    for name in "ab":
        emitted, arrived = ((tmp_path / f"{what}-{name}").read_text() for what in ("emitted", "arrived"))
        assert emitted == arrived


@pytest.mark.parametrize(
    ("arguments", "images", "mode", "workers"),
    [
        ([], 10, "python", 1),
        (["--direct_running_mode=in_memory", "--direct_num_workers=8"], 10**6, "python", 1),
        (["--direct_num_workers=2"], 10**6, "python_grpc", 2),
        (["--direct_num_workers=8"], 10**6, "subprocess", 8),
        (["--direct_num_workers=8"], 5000, "python_grpc", 8),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=1"], 10, "subprocess", 1),
        (["--runner=DirectRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=3"], 10, "grpc", 3),
    ],
)
def test_the_local_runner_fits_the_work(arguments, images, mode, workers):
    options = runner.parse_options(arguments, own_flags=())
    chosen = runner.choose_runner(options, arguments, images=images)
    assert mode in chosen._default_environment.to_runner_api(None).urn
    assert options.view_as(runner.DirectOptions).direct_num_workers == workers


def test_beam_comes_without_its_unused_connectors_which_others_still_find():
    code = (
        "import sys; from beam_jobs import lean_beam; lean_beam.import_beam(); lean_beam.import_beam(); "
        "import beam_jobs.job, beam_jobs.runner, apache_beam; "
        "assert not {'pymongo', 'pyarrow'} & set(sys.modules); import pyarrow; pyarrow.array([1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_remote_runner_is_left_alone():
    options = runner.parse_options(["--runner=FlinkRunner"], own_flags=())
    assert runner.choose_runner(options, ["--runner=FlinkRunner"], images=10) is None


@pytest.mark.parametrize("argument", ["--direct_num_workers=two", "--direct_running_mode=quick", "--sead=1", "stray"])
def test_wrong_options_are_refused(argument):
    with pytest.raises(UsageError):
        runner.parse_options([argument], own_flags=["seed"])
