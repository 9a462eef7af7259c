"""Running a Beam pipeline: strict options, a sensible local default, errors in one line, no noise."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import environments

from beam_jobs import worker
from pipeline.cli import CommandError, ExitCode, TryAgainError, UsageError, nearest

# Starting worker processes takes seconds; one process has inspected this many images by then.
_SMALL = 3000
# `BuildError` of job.py as it appears in the text of whatever the runner raises.
_BUILD_ERROR = re.compile(r"BuildError: \[(\d+)\] (.*?)(?: \[while running .*)?$", re.MULTILINE)
_LOCAL = ("DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"Beam's options: {message}")


def parse_options(arguments: Sequence[str], *, own_flags: Sequence[str]) -> PipelineOptions:
    """Beam's options out of the flags that are not ours.

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
    if "dask" in (options.view_as(StandardOptions).runner or "").lower():
        raise UsageError(
            "--runner=DaskRunner: Beam's DaskRunner silently loses outputs; leave --runner out to run here"
        )
    return options


def _is_given(arguments: Sequence[str], name: str) -> bool:
    return any(argument.partition("=")[0].lstrip("-") == name for argument in arguments)


def choose_runner(options: PipelineOptions, arguments: Sequence[str], *, images: int) -> FnApiRunner | None:
    """Fills in what the user left open and returns the local runner, or None where the options name a remote one.

    Beam's own default, DirectRunner, first tries to download a binary and then ignores the direct_* options.
    """
    if _is_given(arguments, "runner") and options.view_as(StandardOptions).runner.split(".")[-1] not in _LOCAL:
        return None
    direct = options.view_as(DirectOptions)
    mode = direct.direct_running_mode if _is_given(arguments, "direct_running_mode") else None
    workers = direct.direct_num_workers if _is_given(arguments, "direct_num_workers") else None
    cores = len(os.sched_getaffinity(0))
    if workers is None:
        workers = cores if mode in ("multi_processing", "multi_threading") or (mode is None and images >= _SMALL) else 1
    workers = 1 if mode == "in_memory" else workers or cores
    direct.direct_num_workers = workers
    if mode == "multi_threading":
        return FnApiRunner()
    # Else the runner would start workers of its own kind.
    direct.direct_running_mode = "in_memory"
    if mode != "multi_processing" and workers == 1:
        return FnApiRunner()
    return FnApiRunner(
        default_environment=environments.SubprocessSDKEnvironment.from_command_string(worker.command(os.getpid()))
    )


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Makes Ctrl-C, SIGTERM and the death of a worker end the pipeline at once; Beam alone waits for ever.

    Raises:
      TryAgainError: the process was asked to end, or a worker died.
      KeyboardInterrupt: Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be handled here
        return
    launcher = os.getpid()
    stopped_by: list[str] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped_by.append("" if number == signal.SIGINT else "terminated")
        worker.kill_all(launcher)
        raise KeyboardInterrupt

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if stopped_by or isinstance(args.exc_value, grpc.RpcError):
            return  # Beam's threads fall over one another when a worker goes; the one that says so follows
        if args.thread is None or args.thread.name != "run_worker":
            threads_hook(args)
        else:
            stopped_by.append("a worker process died, probably for want of memory (fewer: --direct_num_workers)")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threads_hook, threading.excepthook = threading.excepthook, on_thread_error
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        if stopped_by[0]:
            raise TryAgainError(f"{stopped_by[0]}; run the same command again to continue") from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if not stopped_by:  # else Beam's threads are still falling over
            threading.excepthook = threads_hook


def run(build: Callable[[beam.Pipeline], None], options: PipelineOptions, runner: FnApiRunner | None) -> None:
    """Runs the pipeline that `build` adds its steps to, to the end.

    Raises:
      CommandError: a step raised a `BuildError`; its message and exit code.
      TryAgainError: the process was asked to end, or a worker died.
      Exception: whatever else the runner raises: a bug.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs what it raises
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    try:
        with _stoppable():
            pipeline.run().wait_until_finish()
    except CommandError:
        raise
    except Exception as error:
        found = _BUILD_ERROR.findall(str(error))
        if not found:
            raise
        code, message = found[-1]
        failure = CommandError(message.strip())
        failure.exit_code = ExitCode(int(code))
        raise failure from error
