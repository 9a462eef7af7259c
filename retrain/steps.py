"""Runs the commands of a pass, each in a process of its own, as a user would type them.

A process of its own, because TensorFlow takes 9 s to import and gives back neither the memory nor the device that it
took; a pass that finds nothing changed must need neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from pipeline.command import CommandError, DataError, ExitCode, TryAgainError, UsageError
from pipeline.format.manifest import TEST
from retrain.config import RetrainConfig

CHECK_FILE = "check.json"
_AGAINST = "against.txt"  # beside it: the version that it was compared with; the champion may be another one later
_CHECKED_BY = "photos"  # recipe
_GRACE_SECONDS = 60  # for a stopped command to save its state
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """Names the modules behind the steps."""

    build: str = "beam_jobs.build_tfrecords"
    check: str = "trainer.check"
    train: str = "trainer.main"
    evaluate: str = "trainer.evaluate"
    compare: str = "trainer.compare"


def _die_with_parent() -> Callable[[], None] | None:
    """Returns a function that makes the child it runs in end with this process, even if that is killed outright.

    Otherwise an orphaned trainer would go on writing into the run that the next pass continues. Off Linux (None), the
    inherited lock keeps the next pass out until the orphan is done.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent was gone before the call
            os._exit(128 + signal.SIGKILL)

    return in_child


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


def _run(
    module: str, flags: Mapping[str, object], config: RetrainConfig, *, lock: int, extra: tuple[str, ...] = ()
) -> None:
    """Runs `python -m module --flag=value …`, again after 75; its exit codes 64, 65 and 75 become ours, others 70."""
    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in flags.items()
    ]
    command = [sys.executable, "-m", module, *arguments, *extra]
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    for attempt in range(config.retries + 1):
        code = _exit_code(command, lock)
        if code == ExitCode.DONE:
            return
        if code != ExitCode.AGAIN or attempt == config.retries:
            break
        seconds = config.retry_seconds * 2**attempt
        print(f"{module} ended with exit code 75; again in {seconds} s ({config.retries - attempt} more)", flush=True)
        time.sleep(seconds)
    kinds: dict[int, type[CommandError]]
    kinds = {ExitCode.USAGE: UsageError, ExitCode.DATA: DataError, ExitCode.AGAIN: TryAgainError}
    raise kinds.get(code, CommandError)(f"{module} ended with exit code {code}; its own message stands above")


def _exit_code(command: Sequence[str], lock: int) -> int:
    """Runs a command to its end."""
    # No stdin: a command that asks would hang the pass for ever.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
        preexec_fn=_die_with_parent(),  # noqa: PLW1509 - this process has one thread
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def build(config: RetrainConfig, *, commands: Commands, lock: int) -> None:
    """Brings the dataset root up to date; returns quickly when the source has not changed."""
    own = {"source": config.source, "input": config.input, "output": config.data, "seed": config.seed}
    _run(commands.build, {**own, **config.build}, config, lock=lock)


def check(
    config: RetrainConfig, output: pathlib.Path, *, against: str | None, commands: Commands, lock: int
) -> pathlib.Path:
    """Checks the dataset against another version, once; leaves its report and `check.json` in `output`, returns that.

    With the backbone that the recipe photos begins with, unless the configuration says otherwise: a recipe that begins
    with random weights has no features to judge by, and a run of photos reads those of the check.
    """
    found, marker = output / CHECK_FILE, output / _AGAINST
    compared_with = os.path.basename(against or "")
    if not (found.exists() and marker.exists() and marker.read_text(encoding="utf-8") == compared_with):
        own: dict[str, object] = {"data": config.data, "output": output, "seed": config.seed, "recipe": _CHECKED_BY}
        if config.recipe == _CHECKED_BY:
            own |= {name: config.train[name] for name in ("backbone", "weights") if name in config.train}
        settings = config.settings if config.recipe == _CHECKED_BY else {}
        if against:
            own["against"] = against
        _run(commands.check, {**own, **config.check_flags}, config, extra=_set_flags(settings), lock=lock)
        marker.write_text(compared_with, encoding="utf-8")
    return found


def _set_flags(settings: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"--set={name}={value}" for name, value in settings.items())


def train(config: RetrainConfig, run: pathlib.Path, *, commands: Commands, lock: int) -> None:
    """Trains in `run`, or goes on where it stopped there; leaves the exported model in `run/export`."""
    own = {"data": config.data, "recipe": config.recipe, "workdir": run, "seed": config.seed}
    _run(commands.train, {**own, **config.train}, config, extra=_set_flags(config.settings), lock=lock)


def score(
    model: pathlib.Path, output: pathlib.Path, config: RetrainConfig, *, commands: Commands, lock: int
) -> pathlib.Path:
    """Writes what an exported model answers on the test split to `output`, once."""
    if not output.exists():
        partial = output.with_name(f".partial-{output.name}")
        flags = {"model": model, "data": config.data, "split": TEST, "output": partial}
        _run(commands.evaluate, flags, config, lock=lock)
        os.replace(partial, output)
    return output


def compare(
    champion: pathlib.Path,
    challenger: pathlib.Path,
    page: pathlib.Path,
    config: RetrainConfig,
    *,
    commands: Commands,
    lock: int,
) -> None:
    """Writes the page that sets the answers of two models side by side."""
    answers = (str(champion), str(challenger))
    _run(commands.compare, {"data": config.data, "output": page}, config, extra=answers, lock=lock)
