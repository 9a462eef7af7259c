"""Runs the commands of a pass, each in a process of its own, as a user would type them.

A process of its own, because TensorFlow takes 9 s to import and gives back neither the memory nor the device that it
took; a pass that finds nothing changed must need neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from pipeline.command import CommandError, DataError, ExitCode, TryAgainError, UsageError
from pipeline.format import storage
from pipeline.format.manifest import TEST
from retrain.config import RetrainConfig
from retrain.lock import Lock

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
    verify: str = "trainer.verify"


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Runs the commands of a pass.

    Attributes:
      config: of the pass.
      commands: behind the steps.
      lock: of the registry, which commands hold, too.
    """

    config: RetrainConfig
    commands: Commands
    lock: Lock

    def _run(self, module: str, flags: Mapping[str, object], *, extra: tuple[str, ...] = ()) -> None:
        """Runs a module, again after 75; its exit codes 64, 65 and 75 become ours, others 70."""
        command = command_line(module, flags, extra)
        print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
        retries = self.config.retries
        for attempt in range(retries + 1):
            code = _exit_code(command, self.lock.descriptor)
            if code == ExitCode.DONE:
                return
            if code != ExitCode.AGAIN or attempt == retries:
                break
            seconds = self.config.retry_seconds * 2**attempt
            print(f"{module} ended with exit code 75; again in {seconds} s ({retries - attempt} more)", flush=True)
            time.sleep(seconds)
        kinds: dict[int, type[CommandError]]
        kinds = {ExitCode.USAGE: UsageError, ExitCode.DATA: DataError, ExitCode.AGAIN: TryAgainError}
        raise kinds.get(code, CommandError)(f"{module} ended with exit code {code}; its own message stands above")

    def build(self) -> None:
        """Brings the dataset root up to date; returns quickly when the source has not changed."""
        self._run(self.commands.build, build_flags(self.config))

    def check(self, output: str, *, against: str | None) -> str:
        """Checks the dataset against another version, once; leaves a report and `check.json` in `output`, returns that.

        With the backbone that the recipe photos begins with, unless the configuration says otherwise: a recipe that
        begins with random weights has no features to judge by, and a run of photos reads those of the check.
        """
        config = self.config
        found, marker = storage.join(output, CHECK_FILE), storage.join(output, _AGAINST)
        compared_with = os.path.basename(against or "")
        if not (storage.exists(found) and storage.exists(marker) and storage.read_text(marker) == compared_with):
            own: dict[str, object] = {"data": config.data, "output": output, "seed": config.seed, "recipe": _CHECKED_BY}
            if config.recipe == _CHECKED_BY:
                own |= {name: config.train[name] for name in ("backbone", "weights") if name in config.train}
            settings = config.settings if config.recipe == _CHECKED_BY else {}
            if against:
                own["against"] = against
            self._run(self.commands.check, {**own, **config.check_flags}, extra=_set_flags(settings))
            storage.write_atomically(marker, compared_with)
        return found

    def train(self, run: str, *, seed: int, start: str | None = None) -> None:
        """Trains in `run`, or goes on where it stopped there; leaves the exported model in `run/export`.

        Args:
          run: its folder.
          seed: of it.
          start: an earlier model that it starts from; None: from the recipe's weights.
        """
        config = self.config
        own: dict[str, object] = {"data": config.data, "recipe": config.recipe, "workdir": run, "seed": seed}
        settings = dict(config.settings)
        if start:
            own["init"] = start
            settings["init_share"] = config.init_share
        if config.gate.pools:
            settings["selection"] = "last"  # validation images that chose no weights are evidence like test images
        self._run(self.commands.train, {**own, **config.train}, extra=_set_flags(settings))

    def score(self, model: str, output: str, *, split: str = TEST) -> str:
        """Writes what an exported model answers on a split to `output`, once."""
        if not storage.exists(output):
            flags = {"model": model, "data": self.config.data, "split": split, "output": output}
            self._run(self.commands.evaluate, flags)
        return output

    def compare(self, champion: str, challenger: str, page: str) -> None:
        """Writes the page that sets the answers of two models side by side."""
        flags = {"data": self.config.data, "output": page}
        self._run(self.commands.compare, flags, extra=(champion, challenger))

    def verify(self, model: str, beside: str | None, output: str) -> str:
        """Asks every exported form of a model about its golden images, and those of another; writes that, once.

        Raises:
          CommandError: nothing was found out; a form that answers otherwise than it should is a finding.
        """
        if not storage.exists(output):
            more = {"beside": beside, "ask": self.config.golden}
            flags = {"output": output} | {name: value for name, value in more.items() if value}
            try:
                self._run(self.commands.verify, flags, extra=(model,))
            except DataError:
                if not storage.exists(output):
                    raise
        return output


def command_line(module: str, flags: Mapping[str, object], extra: Sequence[str] = ()) -> list[str]:
    """Returns `python -m module --flag=value …`."""
    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in flags.items()
    ]
    return [sys.executable, "-m", module, *arguments, *extra]


def build_flags(config: RetrainConfig) -> dict[str, object]:
    """Returns the flags of the build."""
    own = {"source": config.source, "input": config.input, "output": config.data, "seed": config.seed}
    return {**own, **config.build}


def _exit_code(command: Sequence[str], lock: int | None) -> int:
    """Runs a command to its end."""
    # No stdin: a command that asks would hang the pass for ever.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=() if lock is None else (lock,),
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


def _set_flags(settings: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"--set={name}={value}" for name, value in settings.items())
