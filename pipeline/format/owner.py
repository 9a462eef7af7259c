"""Lets one process at a time work in a folder: train a run, lead a registry. On any machine that sees the same store.

Each that starts creates the next of the numbered objects in `FOLDER/owners/`, which only one can, and renews it while
it lives. Who finds the last of them alive ends with exit code 75. Who finds it dead takes the folder; should the other
have been asleep only, it sees the higher number before it next writes, and ends with 75, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from pipeline.command import TryAgainError
from pipeline.format import storage

_FOLDER = "owners"
_RENEWED_SECONDS, _SILENT_SECONDS = 10.0, 60.0


@contextlib.contextmanager
def owned(
    run: storage.Path,
    *,
    renewed: float = _RENEWED_SECONDS,
    silent: float = _SILENT_SECONDS,
    doing: str = "trains this run",
) -> Iterator[Ownership]:
    """Owns a folder while the block lasts.

    Args:
      run: the folder, which is made.
      renewed: seconds after which the owner shows again that it lives.
      silent: seconds without a sign of an owner on another machine after which it counts as dead.
      doing: what owners do, for people.

    Raises:
      TryAgainError: another process owns it.
      OSError: nothing can be written there.
    """
    was_there = storage.exists(run)
    ownership = Ownership(run, silent=silent, doing=doing)
    ended = threading.Event()
    renewing = threading.Thread(target=ownership.renew, args=(ended, renewed), daemon=True)
    renewing.start()
    try:
        yield ownership
    finally:
        ended.set()
        renewing.join()
        if not was_there and [entry.name for entry in storage.list_folder(run)] == [_FOLDER]:
            storage.delete(run)  # refused before anything came of it


class Ownership:
    """Holds a folder.

    Attributes:
      number: of this process among all that have owned it.
    """

    def __init__(self, run: storage.Path, *, silent: float, doing: str) -> None:
        """Takes the folder, unless another process has it and lives; see `owned`."""
        self._run = run
        self._folder = storage.join(run, _FOLDER)
        storage.make_folder(self._folder)
        self._content = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "token": os.urandom(8).hex(),
        }
        text = json.dumps(self._content)
        while True:
            last = max(self._numbers(), default=0)
            if last and self._lives(last, silent):
                raise TryAgainError(
                    f"{run}: {_who(self._holder(last))} {doing} already; this command ends, run it again if that one "
                    "should not come to its end"
                )
            self.number = last + 1
            created = storage.create(self._path(self.number), text) or self._holder(self.number) == self._content
            # Else it was that of an earlier owner, which has been deleted since the look.
            if created and max(self._numbers()) == self.number:
                break
        for number in self._numbers():
            if number < self.number:
                storage.delete(self._path(number))

    def check(self) -> None:
        """Raises TryAgainError if another process has taken the folder."""
        if (highest := max(self._numbers(), default=0)) > self.number:
            raise TryAgainError(
                f"{self._run}: {_who(self._holder(highest))} has taken it over and goes on with it; this one ends"
            )

    def renew(self, ended: threading.Event, seconds: float) -> None:
        """Renews the object now and then, until `ended`, and then says in it that the run is free."""
        count = 0
        while not ended.wait(seconds):
            count += 1
            # A store out of reach for a moment is no reason to stop: who waits for a sign waits much longer.
            with contextlib.suppress(OSError):
                storage.write_atomically(self._path(self.number), json.dumps({**self._content, "renewed": count}))
        with contextlib.suppress(OSError):
            storage.write_atomically(self._path(self.number), json.dumps({**self._content, "free": True}))

    def _lives(self, number: int, silent: float) -> bool:
        """Says whether an owner lives: its process is there, or from elsewhere there is a sign of it."""
        found = self._holder(number)
        if found.get("free") or not found:
            return False
        if found.get("machine") and found["machine"] == self._content["machine"]:
            return _started(found["process"]) == found["started"]
        logging.info("%s: waiting for a sign of %s, at most %.0f s", self._run, _who(found), silent)
        until = time.monotonic() + silent
        while time.monotonic() < until:
            time.sleep(min(1.0, silent / 10))
            now = self._holder(number)
            if now != found:
                return not now.get("free") and bool(now)
        return False

    def _path(self, number: int) -> str:
        return storage.join(self._folder, f"{number:08}.json")

    def _numbers(self) -> list[int]:
        try:
            names = [entry.name.partition(".")[0] for entry in storage.list_folder(self._folder)]
        except FileNotFoundError:  # a store has no folder before there is something in it
            names = []
        return [int(name) for name in names if name.isdigit()]

    def _holder(self, number: int) -> dict[str, Any]:
        try:
            return json.loads(storage.read_text(self._path(number)))
        except (FileNotFoundError, ValueError):  # taken over in its turn; damaged by somebody
            return {}


def who_trains(run: storage.Path) -> str | None:
    """Says who trains a run now; None if nobody does. An owner on another machine is taken at its last word."""
    folder = storage.join(run, _FOLDER)
    try:
        names = sorted(entry.name for entry in storage.list_folder(folder))
        holder = json.loads(storage.read_text(storage.join(folder, names[-1]))) if names else {}
    except (FileNotFoundError, ValueError):
        return None
    if not holder or holder.get("free"):
        return None
    if holder.get("machine") == _machine() and _started(holder["process"]) != holder["started"]:
        return None
    return _who(holder)


def _who(holder: dict[str, Any]) -> str:
    return (
        f"process {holder.get('process', 'unknown')} on {holder.get('host', 'an unknown host')} "
        f"(since {holder.get('since', 'an unknown time')})"
    )


def _machine() -> str:
    """Names this machine and its process numbers: equal for two processes that see each other; "" if it cannot tell."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """Returns when a process of this machine began, in the kernel's ticks; None where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(") ")[2].split()
    return None if state in "ZX" else rest[18]
