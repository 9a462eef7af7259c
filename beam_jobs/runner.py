"""Runs a Beam pipeline: strict options, a sensible local default, errors in one line, no noise."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.worker import statesampler
from apache_beam.transforms import environments

from beam_jobs import engine, worker
from beam_jobs.crew import SMALL
from pipeline.command import UsageError, nearest

# What follows is for downloads; a build's images are handled by a crew (crew.py) unless the user names a running mode.
# Starting worker processes takes seconds, and waiting lets go of Python's lock: few threads do as well as processes;
# many would wait for each other.
_MANY = 10_000
_THREADS = 2
_MAX_THREADS = 4
# Workers in threads send their output every second, from another thread than the one that writes it, and lose what is
# written meanwhile (Beam 2.77, TimeBasedBufferingClosableOutputStream): about 3 % of 100,000 rows were gone.
_NEVER_MS = 30 * 24 * 3600 * 1000
# At the end of every stage, Beam waits for the thread that samples where time goes; it sleeps for a fifth of what the
# stage took so far, up to 0.2 s. Nobody looks at its samples.
_SAMPLING_MS = 10


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"Beam's options: {message}")


def parse_options(arguments: Sequence[str], *, own_flags: Sequence[str]) -> PipelineOptions:
    """Parses Beam's options out of the flags that are not ours.

    Args:
      arguments: what absl did not know.
      own_flags: our flags' names, to suggest the nearest one for a typo.

    Raises:
      UsageError: Beam does not know a flag either, its value is invalid, or the runner is one that loses data.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)  # type: ignore[arg-type]
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0]
        known = [flag.lstrip("-") for flag in parser._option_string_actions]
        what = "unknown flag" if unknown[0].startswith("-") else "unexpected argument"
        raise UsageError(f'{what} "{unknown[0]}".{nearest(name, [*own_flags, *known])} (--help lists the flags)')
    options = PipelineOptions(list(arguments))
    runner = (options.view_as(StandardOptions).runner or "").lower()
    if "dataflow" in runner:
        raise UsageError(
            "--runner=DataflowRunner: its workers cannot see the local directory that a build goes to; leave --runner "
            "out to run here, or take a runner whose workers share this file system"
        )
    if "dask" in runner:
        raise UsageError(
            "--runner=DaskRunner: Beam's DaskRunner silently loses outputs; leave --runner out to run here"
        )
    return options


def choose_runner(options: PipelineOptions, arguments: Sequence[str], *, images: int) -> FnApiRunner | None:
    """Fills in what the user left open and returns the local runner, or None where the options name a remote one.

    Beam's own default, DirectRunner, first tries to download a binary and then ignores the direct_* options.
    """
    if not engine.is_local(options, arguments):
        return None
    direct = options.view_as(DirectOptions)
    mode = direct.direct_running_mode if engine.is_given(arguments, "direct_running_mode") else None
    workers = direct.direct_num_workers if engine.is_given(arguments, "direct_num_workers") else None
    cores = len(os.sched_getaffinity(0))
    if workers is None:
        workers = 1 if mode == "in_memory" or (mode is None and images < SMALL) else 0
    workers = workers or cores
    if mode is None:
        threads = workers <= _THREADS or images < _MANY
        mode = "in_memory" if workers == 1 else "multi_threading" if threads else "multi_processing"
        if threads and not engine.is_given(arguments, "direct_num_workers"):
            workers = min(workers, _MAX_THREADS)
    direct.direct_num_workers = 1 if mode == "in_memory" else workers
    direct.direct_running_mode = "in_memory"  # else the runner would replace the environment chosen here
    if mode == "in_memory":
        return FnApiRunner()
    if mode == "multi_threading":
        return FnApiRunner(
            default_environment=environments.EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=_NEVER_MS)
        )
    return FnApiRunner(
        default_environment=environments.SubprocessSDKEnvironment.from_command_string(worker.command(os.getpid()))
    )


def run(build: Callable[[beam.Pipeline], None], options: PipelineOptions, runner: FnApiRunner | None) -> None:
    """Runs the pipeline that `build` adds its steps to, to the end; raises what `engine.run` raises."""
    statesampler.StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
    engine.run(build, options, runner, quiet=True)
