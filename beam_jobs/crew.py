"""Runs light processes that handle the images of a local build, while Beam in the launcher's process handles the rows.

Beam's own worker processes take a second each to start and 100 MB, and threads share one interpreter lock: two of them
keep 1.4 cores busy. A member of the crew imports neither Beam nor what commands need, and starts while Beam is loaded.
It has no state that matters: whatever it leaves on disk is fit for a SIGKILL at any moment.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from beam_jobs.errors import BuildError
from beam_jobs.inspection import read_bucket
from beam_jobs.job_config import JobConfig
from beam_jobs.sources import SourceItem
from pipeline.command import ExitCode, ExpectedError

LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")
# Below this many images a second process does not pay for itself.
SMALL = 500


class MemberDied(ExpectedError):
    """Reports that a member of the crew ended in the middle of a task; `signal` is the one that ended it, or None."""

    def __init__(self, returncode: int | None) -> None:
        self.signal = signal.Signals(-returncode) if returncode and returncode < 0 else None
        super().__init__(self.signal.name if self.signal else f"exit code {returncode}")

    @property
    def crashed(self) -> bool:
        """Says whether a fault of its own ended it, such as a decoder's on a malicious file."""
        return self.signal in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

    def for_user(self) -> BuildError:
        return BuildError(
            ExitCode.AGAIN,
            "a worker process died, probably for want of memory (fewer: --direct_num_workers); "
            "run the same command again to continue",
        )


class TaskFailed(RuntimeError):
    """Reports that a task raised; the text is the traceback of a `BuildError` (see `errors.command_error`) or a bug."""


def crew_size(arguments: Sequence[str], *, images: int) -> int:
    """Counts the members that a build should have; 0 where Beam's workers or the launcher handle its images.

    Args:
      arguments: the user's flags for Beam; a runner or a running mode named there is taken at its word.
      images: listed.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("--runner", "--direct_running_mode"):
        parser.add_argument(name)
    parser.add_argument("--direct_num_workers", type=int)
    known, _ = parser.parse_known_args(list(arguments))
    remote = known.runner and known.runner.split(".")[-1] not in LOCAL_RUNNERS
    if remote or known.direct_running_mode or (known.direct_num_workers is None and images < SMALL):
        return 0
    size = known.direct_num_workers or len(os.sched_getaffinity(0))
    return size if size > 1 else 0


def result(future: concurrent.futures.Future[Any]) -> Any:
    """Waits for a task and returns what it returned.

    Raises:
      BuildError: a process died.
      TaskFailed: the task raised.
    """
    try:
        return future.result()
    except MemberDied as died:
        raise died.for_user() from died


class Crew:
    """Runs `size` processes, each with its own `tasks.Tasks`; begins tasks in the order in which they are submitted."""

    def __init__(self, size: int, config: JobConfig) -> None:
        self.size = size
        self._config = config
        self._tasks: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], str, tuple] | None] = queue.SimpleQueue()
        self._ahead: dict[tuple[str, ...], concurrent.futures.Future[Any]] = {}
        self._members: dict[int, subprocess.Popen[bytes]] = {}
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(size)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: str, *arguments: Any) -> concurrent.futures.Future[Any]:
        """Submits `Tasks.<task>(*arguments)`; its future raises `TaskFailed` or `MemberDied`."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._tasks.put((future, task, arguments))
        return future

    def inspect(self, buckets: tuple[str, ...]) -> Any:
        """Returns the result of `Tasks.inspect`; of images that crash the decoder, the BuildError names the first."""
        try:
            return (self._ahead.pop(buckets, None) or self.submit("inspect", buckets)).result()
        except MemberDied as died:
            if died.crashed:
                self._drop_waiting()
                for bucket in buckets:
                    self._survive(read_bucket(self._config.listing, bucket))
            raise died.for_user() from died

    def _drop_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()

    def _survive(self, items: Iterable[SourceItem]) -> None:
        for item in items:
            try:
                self.submit("look_at", item).result()
            except MemberDied as died:
                raise BuildError(
                    ExitCode.INTERNAL,
                    f"{item.uri}: reading this image crashes the process that does it ({died}); remove it and run the "
                    "same command again to continue",
                ) from died

    def begin_inspection(self, groups: Iterable[tuple[str, ...]]) -> None:
        """Begins what `inspect` will be asked for later."""
        self._ahead = {buckets: self.submit("inspect", buckets) for buckets in groups}

    def _serve(self, number: int) -> None:
        # The member's life ends with this thread's (see worker.die_with), so the thread that starts it is the one that
        # stays with it.
        while not self._closed:
            future: concurrent.futures.Future[Any] | None = None
            failure: Exception
            try:
                member = self._members[number] = self._start()
                try:
                    self._send(member, self._config)
                    while task := self._tasks.get():
                        future, *request = task
                        self._send(member, request)
                        value, error = self._receive(member)
                        if error:
                            future.set_exception(TaskFailed(error))
                        else:
                            future.set_result(value)
                    return
                except (OSError, EOFError, pickle.UnpicklingError):
                    member.kill()  # or it has ended by itself, which this does not change
                    failure = MemberDied(member.wait())
            except Exception as error:  # no process can be started, or a bug: nobody may wait for ever
                failure = error
            if future is None:
                if not (task := self._tasks.get()):
                    return
                future = task[0]
            future.set_exception(failure)

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        # Beam's worker is the model: see there for why it gets the launcher's process id.
        command = [sys.executable, "-m", "beam_jobs.crew_member", str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    @staticmethod
    def _send(member: subprocess.Popen[bytes], message: Any) -> None:
        assert member.stdin
        member.stdin.write(pickle.dumps(message, protocol=5))
        member.stdin.flush()

    @staticmethod
    def _receive(member: subprocess.Popen[bytes]) -> tuple[Any, str]:
        assert member.stdout
        answer: tuple[Any, str] = pickle.load(member.stdout)
        return answer

    def close(self) -> None:
        """Ends the processes, in the middle of their tasks if need be."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for member in self._members.values():
            member.kill()
        for thread in self._threads:
            thread.join()
        for member in self._members.values():
            member.communicate()


_crew: Crew | None = None


def current() -> Crew | None:
    """Returns the crew of this process, or None where no build has one here."""
    return _crew


@contextlib.contextmanager
def at_work(size: int, config: JobConfig) -> Iterator[Crew | None]:
    """Keeps a crew of `size`, or none if that is 0, while the body runs."""
    global _crew  # noqa: PLW0603 - Beam's steps are pickled, even in one process, and can be given no handles
    if not size:
        yield None
        return
    _crew = Crew(size, config)
    try:
        yield _crew
    finally:
        _crew.close()
        _crew = None
