"""Computes durations, and learning rates as small pure functions of position (after fastai's callback/schedule.py)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ep|st|%)$")

# A schedule's piece: position in [0, 1] → learning rate.
Curve = Callable[[float], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duration:
    """Holds a length of training in one unit: `5ep` (epochs), `2000st` (optimizer steps) or `10%` (of its phase)."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Reads a duration; raises ValueError, showing the accepted forms, if `text` is none of them."""
        match = _DURATION.match(str(text).strip())
        if not match:
            raise ValueError(f'"{text}" is not a duration; write epochs as 5ep, steps as 2000st or a share as 10%')
        return cls(value=float(match[1]), unit=match[2])

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"

    def steps(self, *, steps_per_epoch: int, whole: int | None = None) -> int:
        """Converts the length to steps, rounded to the nearest.

        Args:
          steps_per_epoch: optimizer steps in one pass over the training split.
          whole: steps of the phase that a percentage refers to.
        """
        if self.unit == "%":
            if whole is None:
                raise ValueError(f"{self} of what? give this duration in epochs (5ep) or steps (2000st)")
            return round(self.value / 100 * whole)
        return round(self.value * steps_per_epoch) if self.unit == "ep" else round(self.value)


def constant(value: float) -> Curve:
    return lambda position: value


def cosine(start: float, end: float) -> Curve:
    """Returns half a cosine wave from `start` to `end` (arXiv 1608.03983 without restarts)."""
    return lambda position: end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def tabulate(pieces: Sequence[tuple[Curve, int]]) -> np.ndarray:
    """Evaluates curves one after the other.

    Args:
      pieces: (curve, number of steps). A piece's last step is at position 1 and its first at position 0, but a piece
        that follows another starts one step after it, so that a corner value is not used twice.

    Returns:
      float32 [total steps]: the learning rate of every step.
    """
    values: list[float] = []
    for curve, steps in pieces:
        first = 1 if values else 0
        last = max(steps - 1 + first, 1)
        values += [curve((first + step) / last) for step in range(steps)]
    return np.asarray(values, np.float32)


def warmup_flat_cooldown(*, lr_min: float, lr_max: float, warmup: int, flat: int, cooldown: int) -> np.ndarray:
    """Tabulates a cosine from `lr_min` to `lr_max`, a flat part, a cosine back; lengths in steps. float32 [sum].

    `lr_max` is always reached: a warm-up of a single step is there at once.
    """
    up = cosine(lr_min, lr_max) if warmup > 1 else constant(lr_max)
    pieces = [(up, warmup), (constant(lr_max), flat), (cosine(lr_max, lr_min), cooldown)]
    return tabulate([(curve, steps) for curve, steps in pieces if steps > 0])


def step_decay(*, lr_max: float, factor: float, every: int, steps: int) -> np.ndarray:
    """Multiplies `lr_max` by `factor` after every `every` steps; returns float32 [steps]."""
    return (lr_max * factor ** (np.arange(steps) // every)).astype(np.float32)
