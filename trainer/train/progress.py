"""Shows how far something has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

from absl import logging
from tqdm import tqdm

from pipeline.progress import duration
from trainer.train.evaluation import Metrics

_SECONDS_BETWEEN_LINES = 30.0
COMPILING = "compiling, up to a minute"  # what the first step and the first batch wait for
_BAR = "{desc} |{bar:24}| {n_fmt}/{total_fmt}{postfix}"


def epoch_line(
    where: str, *, loss: float, accuracy: float, validated: Metrics | None, by: str, best: bool, left: float | None
) -> str:
    """Tells an epoch in one short line.

    Args:
      where: the phase, and how many of its epochs are done.
      loss: of training.
      accuracy: of training.
      validated: metrics of validation, where there is any.
      by: the metric that weights are selected by, one of `SELECTION_METRICS`.
      best: whether validation was never better.
      left: seconds until the run is over, None if nobody knows.
    """
    text = f"{where} loss {loss:.3f} acc {accuracy:.3f}"
    if validated:
        text += f" val {validated.accuracy:.3f}"
        text += "" if by == "accuracy" else f" ({by} {getattr(validated, by):.3f})"
    return text + " best" * best + ("" if left is None else f", {duration(left)} left")


class Progress:
    """Shows one stretch of work that is counted in steps, images or the like."""

    def __init__(self, what: str, *, done: int, total: int, at_first: str) -> None:
        """Begins to show it.

        Args:
          what: is done, which begins the lines.
          done: counted already, which no rate takes account of.
          total: counted at the end.
          at_first: what happens until the first of them is done, which takes longer than any other.
        """
        self._what, self._first, self._done, self._total = what, done, done, total
        self._start = self._last_line = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=f"{what}: {at_first}", bar_format="{desc}", leave=False)

    def update(self, done: int, note: str = "", *, left: float | None = None) -> None:
        """Shows that so many are done.

        Args:
          done: of the total.
          note: how it goes.
          left: seconds until all is over, if more is known than the rate so far.
        """
        self._done = done
        if self._bar is None and not self._is_line_due():
            return
        if left is None and done > self._first:
            left = (self._total - done) * (time.monotonic() - self._start) / (done - self._first)
        text = ", ".join(filter(None, [note, f"{duration(left)} left" if left is not None else ""]))
        if self._bar is None:
            logging.info("%s: %d/%d %s", self._what, done, self._total, text)
            return
        self._bar.bar_format = _BAR
        self._bar.set_description_str(self._what, refresh=False)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def name(self, what: str) -> None:
        """Changes what begins the lines."""
        self._what = what

    def say(self, text: str) -> None:
        """Shows what is going on beside the counting."""
        text = f"{self._what}: {text}"
        if self._bar is not None:
            self._bar.bar_format = "{desc}"
            self._bar.set_description_str(text)
        elif self._is_line_due():
            logging.info("%s", text)

    def _is_line_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
