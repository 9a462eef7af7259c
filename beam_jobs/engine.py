"""Runs a Beam pipeline on the engine that the options name, or here: strict options, errors in one line, no noise."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms import environments

from beam_jobs import stopping, worker
from beam_jobs.errors import command_error
from pipeline.command import CommandError, ExitCode, TryAgainError, UsageError, first_line, nearest

_LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"Beam's options: {message}")


def parse_options(arguments: Sequence[str], *, own_flags: Sequence[str]) -> PipelineOptions:
    """Parses Beam's options out of the flags that are not ours.

    Args:
      arguments: what absl did not know.
      own_flags: our flags' names, to suggest the nearest one for a typo.

    Raises:
      UsageError: Beam does not know a flag either, its value is invalid, or the runner or its mode is one that loses
        data.
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
    if "dask" in named(options).lower():
        raise UsageError(
            "--runner=DaskRunner: Beam's DaskRunner silently loses outputs; leave --runner out to run here"
        )
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise UsageError(
            "--direct_running_mode=multi_threading: Beam loses rows in it; take multi_processing, or leave it out"
        )
    return options


def is_given(arguments: Sequence[str], name: str) -> bool:
    """Says whether the user gave Beam's option `name`: a default looks the same once it is parsed."""
    return any(argument.partition("=")[0].lstrip("-") == name for argument in arguments)


def named(options: PipelineOptions) -> str:
    """Returns the runner that the options name."""
    return options.view_as(StandardOptions).runner or ""


def template_of(options: PipelineOptions) -> str | None:
    """Returns where the job is to be written instead of being run; None where it is to be run."""
    template: str | None = options.view_as(GoogleCloudOptions).template_location
    return template


def is_local(options: PipelineOptions, arguments: Sequence[str]) -> bool:
    """Says whether the pipeline is to run here: no runner is named, or a local one."""
    return not is_given(arguments, "runner") or named(options).rpartition(".")[2] in _LOCAL_RUNNERS


def choose_runner(options: PipelineOptions, arguments: Sequence[str]) -> tuple[FnApiRunner | None, int]:
    """Returns the local runner, or None where the options name an engine, and how many images a worker decodes at once.

    Beam's own default, DirectRunner, first tries to download a binary and then ignores the direct_* options. Here, one
    process with as many decoders as there are cores takes a third of the memory that as many workers take.
    """
    if not is_local(options, arguments):
        return None, 1  # the engine runs a worker, or a thread of one, for each core
    direct = options.view_as(DirectOptions)
    processes = direct.direct_running_mode == "multi_processing"
    wanted = direct.direct_num_workers if is_given(arguments, "direct_num_workers") else 0
    cores = wanted or len(os.sched_getaffinity(0))
    direct.direct_num_workers = cores if processes else 1
    direct.direct_running_mode = "in_memory"  # else the runner would replace the environment chosen here
    if not processes:
        return FnApiRunner(), cores
    command = worker.command(os.getpid())
    return FnApiRunner(default_environment=environments.SubprocessSDKEnvironment.from_command_string(command)), 1


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Makes signals and the death of a local worker end the process at once; Beam would wait, perhaps for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stderr = sys.stderr

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if args.thread is not None and args.thread.name == "run_worker":
            reason = "a worker process died, probably for want of memory (fewer: --direct_num_workers)"
            stopping.end(f"error: {reason}; run the same command again to continue", ExitCode.AGAIN, stderr)
        if not isinstance(args.exc_value, grpc.RpcError):  # those only say that a worker has gone
            threads_hook(args)

    threads_hook, threading.excepthook = threading.excepthook, on_thread_error
    try:
        with stopping.at_once():
            yield
    finally:
        threading.excepthook = threads_hook


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps Beam from logging what it raises, and from passing on what an engine logs about it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _failure_of(error: Exception, *, elsewhere: bool) -> CommandError | None:
    """Returns what to tell the user of a job that failed; None for a bug."""
    if failure := command_error(error):
        return failure
    if elsewhere and "Traceback" not in str(error):  # of no step of ours: a worker went, or the engine itself failed
        return TryAgainError(f"the engine gave up: {first_line(error)[:500]} (run the same command again to continue)")
    return None


def run(build: Callable[[beam.Pipeline], object], options: PipelineOptions, runner: PipelineRunner | None) -> None:
    """Runs the pipeline that `build` adds its steps to, to the end.

    Args:
      build: adds the steps.
      options: Beam's options.
      runner: the local runner, or None for the engine that the options name.

    Raises:
      CommandError: a step raised a `BuildError`: its message and exit code; the engine is not there, or gave up.
      Exception: whatever else the runner raises: a bug.
    """
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except ValueError as error:
        raise UsageError(f"Beam's options: {' '.join(str(error).split())}") from error
    build(pipeline)
    try:
        with _stoppable(), _silent():
            pipeline.run().wait_until_finish()
    except grpc.FutureTimeoutError as error:
        endpoint = options.view_as(PortableOptions).job_endpoint
        raise TryAgainError(f"--job_endpoint={endpoint}: no engine answers there") from error
    except Exception as error:
        if failure := _failure_of(error, elsewhere=runner is None):
            raise failure from error
        raise
