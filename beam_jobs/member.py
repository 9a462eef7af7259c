"""A member of the crew (crew.py) as its launcher sees it: a process that answers one message after the other."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from beam_jobs import crew_member

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def can_fork() -> bool:
    """Whether this process has a single thread, so that no other can hold a lock that a fork would never see freed."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


class Member:
    """One process. Its life ends with the thread that made it (`worker.die_with`), where the system can do that."""

    def __init__(self, pid: int, *, requests: int, answers: int) -> None:
        self._pid = pid
        self._requests, self._answers = os.fdopen(requests, "wb"), os.fdopen(answers, "rb")
        self._code: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def spawn(cls) -> Member:
        """A new interpreter, which first imports what it needs: 0.2 s of processor time."""
        with _pipes() as (requests, answers):
            command = [sys.executable, "-m", crew_member.__name__, str(os.getpid())]
            actions = [
                (os.POSIX_SPAWN_DUP2, requests[0], 0),
                (os.POSIX_SPAWN_DUP2, answers[1], 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ]
            pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
            return cls(pid, requests=requests[1], answers=answers[0])

    @classmethod
    def fork(cls) -> Member:
        """A copy of this process, which has imported everything. Only where `can_fork`."""
        with _pipes() as (requests, answers):
            launcher = os.getpid()
            # A signal in between would end the copy as if it were the build.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                if (pid := os.fork()) == 0:
                    _become_member(launcher, requests=requests[0], answers=answers[1])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return cls(pid, requests=requests[1], answers=answers[0])

    def send(self, message: Any) -> None:
        """Raises OSError: it has ended."""
        self._requests.write(pickle.dumps(message, protocol=5))
        self._requests.flush()

    def receive(self) -> Any:
        """Raises OSError, EOFError, pickle.UnpicklingError: it has ended."""
        return pickle.load(self._answers)

    def kill(self) -> None:
        with self._lock:
            if self._code is None:
                os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Lets it finish, if it has not ended; returns its exit code, or minus the number of the signal."""
        with contextlib.suppress(OSError):  # what it did not take any more
            self._requests.close()
        with self._lock:
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._answers.close()
        return self._code


def _become_member(launcher: int, *, requests: int, answers: int) -> NoReturn:
    try:
        gc.freeze()  # a file object that is collected would close a number that means another file by then
        os.dup2(requests, 0)
        os.dup2(answers, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2:  # the root's lock among them
                with contextlib.suppress(OSError):
                    os.close(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        crew_member.serve(launcher)
        os._exit(0)
    finally:
        os._exit(1)


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(read, write) ends of two pipes; the other side's are closed afterwards, all of them if something is raised."""
    requests, answers = os.pipe(), os.pipe()
    try:
        yield requests, answers
    except BaseException:
        os.close(requests[1])
        os.close(answers[0])
        raise
    finally:
        os.close(requests[0])
        os.close(answers[1])
