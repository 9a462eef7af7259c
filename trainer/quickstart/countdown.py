"""Counts down: what is left of a quickstart while it runs, and whether its budget lets a step go on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence

from pipeline.format.manifest import TRAIN
from pipeline.pages.environment import duration
from trainer.quickstart.memory import Memory
from trainer.quickstart.outlook import END, EPOCH, START, STOPPED, TUNING, Outlook
from trainer.quickstart.talk import Talk

_OVER = 0.05  # of the budget: how far beyond it a step may go on that is nearly done
_WORDS = {
    "build": "building the dataset",
    "check": "checking the data",
    "head": "making a first model",
    "stopped": "making a model of it",
}


class Countdown:
    """Knows the step that runs, those after it, and the time.

    Attributes:
      outlook: what is known of the steps.
      memory: of the times that steps took.
    """

    def __init__(self, outlook: Outlook, memory: Memory, talk: Talk, *, budget: float | None) -> None:
        """Starts the clock.

        Args:
          outlook: what is known of the steps.
          memory: of the times that steps took.
          talk: shows what is left.
          budget: seconds that all may take; None for no limit.
        """
        self.outlook, self.memory = outlook, memory
        self._talk, self._budget = talk, budget
        self._start = self._begun = time.monotonic()
        self._step, self._after = "", tuple[str, ...]()
        self._run, self._epochs = "", 0
        self._marks: list[tuple[int, float]] = []  # epochs that were done, and when that was first seen

    @property
    def left(self) -> float | None:
        """Returns the seconds that are left of the budget; None without one."""
        return None if self._budget is None else self._budget - self.spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self._start

    def begin(self, step: str, after: Sequence[str]) -> None:
        """Begins a step; `after` are those that come then."""
        self._step, self._after, self._begun = step, tuple(after), time.monotonic()

    def end(self) -> None:
        """Notes how long the step took, for estimates."""
        taken = time.monotonic() - self._begun
        self._note(self._step, taken / self.outlook.guess(self._step))

    def begin_tuning(self, run: str, epochs: int) -> None:
        """Begins the fine-tuning of a run, of so many epochs all together."""
        self.begin(TUNING, ())
        self._run, self._epochs, self._marks = run, epochs, [(epochs_done(run), time.monotonic())]

    def end_tuning(self, *, whole: bool) -> None:
        """Notes how long an epoch took, and what came after the last one if the run came to its end."""
        self._look()
        if len(self._marks) > 2:
            self._note(EPOCH, self._each() / self.outlook.guess(EPOCH))
        done, since = self._marks[-1]
        if whole and done >= self._epochs and len(self._marks) > 1:
            self._note(END, (time.monotonic() - since) / self.outlook.guess(END))

    def _note(self, step: str, slowness: float) -> None:
        self.memory = self.memory.with_time(step, slowness)
        self.outlook = dataclasses.replace(self.outlook, slowness=self.memory.slowness)

    def show(self) -> None:
        """Shows what is being done, and how long all of it will take."""
        what = _WORDS.get(self._step, "fine-tuning")
        if self._step == TUNING:
            self._look()
            done = self._marks[-1][0]
            what += f", epoch {done + 1} of {self._epochs}" if done < self._epochs else ": evaluation and export"
        # A step that takes longer than estimated tells of those after it, even before it ends.
        late = (time.monotonic() - self._begun) / self.outlook.seconds(self._step)
        left = self._of_step() + self.outlook.total(self._after) * max(1.0, late)
        if self.left is not None:
            left = min(left, max(self.left, 0.0))
        self._talk.doing(f"{what}: about {duration(left)} to the end")

    def is_over(self) -> bool:
        """Says whether the budget is spent, and a step that goes on is to be stopped."""
        return self.left is not None and self.left < -_OVER * (self._budget or 0.0)

    def must_stop_tuning(self) -> bool:
        """Says whether fine-tuning is to be stopped, so that there is time to make a model of what it has reached.

        A run whose epochs are done makes that model itself, so it goes on as long as the budget lets any step go on.
        """
        if self.left is None or self.is_over() or self._marks[-1][0] >= self._epochs:
            return self.is_over()
        if self._of_step() <= self.left + _OVER * (self._budget or 0.0):
            return False
        return self.left < self.outlook.seconds(STOPPED)

    def _of_step(self) -> float:
        """Estimates the seconds that are left of the step; never none, for it has not ended."""
        elapsed = time.monotonic() - self._begun
        if self._step != TUNING:
            seconds = self.outlook.seconds(self._step)
            return max(seconds - elapsed, 0.05 * seconds)
        done, since = self._marks[-1]
        rest = (self._epochs - done) * self._each() + self.outlook.seconds(END)
        if len(self._marks) == 1:
            rest += self.outlook.seconds(START)
        return max(rest - (time.monotonic() - since), 1.0)

    def _look(self) -> None:
        """Notes how many epochs are done, if that is news, and how busy the machine is now."""
        done = epochs_done(self._run)
        if done > self._marks[-1][0]:
            self._marks.append((done, time.monotonic()))
            now = self._each() / self.outlook.guess(EPOCH)
            self.outlook = dataclasses.replace(self.outlook, slowness={**self.outlook.slowness, EPOCH: now})

    def _each(self) -> float:
        """Returns the seconds of an epoch: the first that is seen also compiles, so it counts only until the second."""
        if len(self._marks) > 2:
            (first, begun), (last, ended) = self._marks[1], self._marks[-1]
            return (ended - begun) / (last - first)
        guess = self.outlook.seconds(EPOCH)
        if len(self._marks) == 2:
            (before, begun), (after, ended) = self._marks
            return max(guess, (ended - begun - self.outlook.seconds(START)) / (after - before))
        return guess


def epochs_done(run: str) -> int:
    """Counts the epochs of fine-tuning that a run has done, by its metrics; 0 where there are none yet."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return sum(row["split"] == TRAIN and row["phase"] != rows[0]["phase"] for row in rows)
    return 0
