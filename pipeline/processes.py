"""Starts commands of this project, each in a process of its own, as a user would type them. Free of TensorFlow.

A process of its own, because TensorFlow takes 9 s to import and gives back neither the memory nor the device that it
took; whoever finds nothing to do must need neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, Any

from pipeline.command import CommandError, DataError, ExitCode, TryAgainError, UsageError

_GRACE_SECONDS = 60  # for a stopped command to save its state
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_KINDS: Mapping[int, type[CommandError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.DATA: DataError,
    ExitCode.AGAIN: TryAgainError,
}


def command_line(module: str, flags: Mapping[str, object], extra: Sequence[str] = ()) -> list[str]:
    """Returns `python -m module --flag=value …`."""
    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in flags.items()
    ]
    return [sys.executable, "-m", module, *arguments, *extra]


def set_flags(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Returns `--set=name=value …`, as trainer.main and others take overrides of a recipe."""
    return tuple(f"--set={name}={value}" for name, value in settings.items())


@contextlib.contextmanager
def started(
    command: Sequence[str], *, lock: int | None, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command; a block that is left before its end stops it, so that it may save its state.

    Args:
      command: to be run, without a standard input: one that asks would hang for ever.
      lock: descriptor of a lock file, which the command holds as well; None for none.
      output: file for what it says; None: where this process says things.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=() if lock is None else (lock,),
        preexec_fn=_die_with_parent(),  # noqa: PLW1509 - this process has one thread
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            wait_or_kill(process, seconds=_GRACE_SECONDS)


def wait_or_kill(process: subprocess.Popen[Any], *, seconds: float) -> None:
    """Waits for a process that was told to end, and kills it if it takes longer."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def error_of(code: int, message: str) -> CommandError:
    """Returns the error that stands for a command's exit code: 64, 65 and 75 stay what they are, others become 70."""
    return _KINDS.get(code, CommandError)(message)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM (systemd, a pre-emption notice) into TryAgainError: the running command is stopped in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TryAgainError("stopped by SIGTERM; run the same command again to continue")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _die_with_parent() -> Callable[[], None] | None:
    """Returns a function that makes the child it runs in end with this process, even if that is killed outright.

    Otherwise an orphaned trainer would go on writing into the run that the next process continues. Off Linux (None),
    the inherited lock keeps the next one out until the orphan is done.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent was gone before the call
            os._exit(128 + signal.SIGKILL)

    return in_child
