"""Lets one process at a time write a run: whoever comes last, as when a pre-empted VM drains beside its heir.

Each that starts creates the next of the numbered objects in `RUN/owners/`, which only one can. The highest number owns
the run. The others see that before they next write, and end with exit code 75: the run goes on without them.
"""

from __future__ import annotations

import json
import os
import socket

from pipeline.command import TryAgainError
from pipeline.format import storage

_FOLDER = "owners"


class Ownership:
    """Holds a run's directory until another process takes it.

    Attributes:
      number: of this process among all that have owned the run.
    """

    def __init__(self, run: storage.Path) -> None:
        """Takes the run in `run` from whoever has it. Raises OSError where nothing can be written there."""
        self._run = run
        self._folder = storage.join(run, _FOLDER)
        storage.make_folder(self._folder)
        token = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": os.urandom(8).hex()})
        while True:
            self.number = max(self._numbers(), default=0) + 1
            created = storage.create(self._path(self.number), token) or self._holder(self.number) == token
            # Else it was that of an earlier owner, which has been deleted since the look.
            if created and max(self._numbers()) == self.number:
                break
        for number in self._numbers():
            if number < self.number:
                storage.delete(self._path(number))

    def check(self) -> None:
        """Raises TryAgainError if another process has taken the run."""
        if (highest := max(self._numbers(), default=0)) > self.number:
            holder = json.loads(self._holder(highest) or "{}")
            raise TryAgainError(
                f"{self._run}: another process has taken this run over (host {holder.get('host', 'unknown')}, process "
                f"{holder.get('pid', 'unknown')}) and goes on with it; this one ends"
            )

    def _path(self, number: int) -> str:
        return storage.join(self._folder, f"{number:08}.json")

    def _numbers(self) -> list[int]:
        try:
            names = [entry.name.partition(".")[0] for entry in storage.list_folder(self._folder)]
        except FileNotFoundError:  # a store has no folder before there is something in it
            names = []
        return [int(name) for name in names if name.isdigit()]

    def _holder(self, number: int) -> str:
        try:
            return storage.read_text(self._path(number))
        except FileNotFoundError:  # taken over in its turn
            return ""
