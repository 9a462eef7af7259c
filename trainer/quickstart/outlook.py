"""Estimates how long the steps of a quickstart take, and how much of fine-tuning a budget has time for.

The guesses are those of two quiet cores (`benchmarks/RESULTS.md`, "Quickstart"); each step that has ended tells by how
much this machine differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

BUILD, CHECK, HEAD, EPOCH, TUNING = "build", "check", "head", "epoch", "tuning"
START, END, STOPPED = "start", "end", "stopped"  # of fine-tuning: before its epochs, after them, after a stop
TRAIN_SHARE = 0.7
_SIDE = 224  # pixels, of the guesses
# Seconds: of the step itself, for each image, and for each image of `_SIDE` pixels.
_GUESSES: Mapping[str, tuple[float, float, float]] = {
    BUILD: (4.0, 0.004, 0.0),
    CHECK: (12.0, 0.015, 0.025),
    HEAD: (25.0, 0.01, 0.01),
    EPOCH: (0.5, 0.002, 0.022),  # for each training image, validation included
    START: (12.0, 0.004, 0.004),  # the step is compiled within it
    END: (22.0, 0.01, 0.01),  # evaluation, report and export
    STOPPED: (20.0, 0.005, 0.005),  # to save, and to export and evaluate what has been reached
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """Estimates seconds.

    Attributes:
      images: how many there are, all together.
      side: pixels at which the backbone sees them.
      epochs: of the whole fine-tuning.
      slowness: step → how many times as long as guessed it took.
    """

    images: int
    side: int
    epochs: int
    slowness: Mapping[str, float]

    def guess(self, step: str) -> float:
        """Returns the seconds that a step would take on two quiet cores."""
        fixed, each, each_large = _GUESSES[step]
        count = self.images * (TRAIN_SHARE if step == EPOCH else 1)
        return fixed + count * (each + each_large * (self.side / _SIDE) ** 2)

    def seconds(self, step: str) -> float:
        """Returns the seconds that a step will take here."""
        if step == TUNING:
            return self.tuning(self.epochs)
        return self.guess(step) * self._slowness(step)

    def tuning(self, epochs: int) -> float:
        """Returns the seconds that a run of so many epochs takes."""
        return self.seconds(START) + epochs * self.seconds(EPOCH) + self.seconds(END)

    def total(self, steps: Sequence[str]) -> float:
        return sum(map(self.seconds, steps))

    def epochs_within(self, seconds: float) -> int:
        """Counts the epochs of a run that ends in so many seconds; 0 if not even one does."""
        return max(0, min(self.epochs, int((seconds - self.tuning(0)) / self.seconds(EPOCH))))

    def _slowness(self, step: str) -> float:
        """Returns the slowness of a step; until it is timed, the worst of training, else that of the check."""
        if step in self.slowness:
            return self.slowness[step]
        trained = [self.slowness[one] for one in (HEAD, EPOCH) if one in self.slowness]
        return max(trained) if trained else self.slowness.get(CHECK, 1.0)
