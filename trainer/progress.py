"""What people watch while a run goes on: a bar on a terminal, plain lines with rate and ETA in a log."""

from __future__ import annotations

import sys
import time

from absl import logging
from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Progress of one phase, counted in steps."""

    def __init__(self, *, phase: str, first_step: int, total_steps: int, batch_size: int) -> None:
        self._phase, self._total, self._batch_size = phase, total_steps, batch_size
        self._first, self._start, self._last_line = first_step, time.monotonic(), time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", desc=phase, leave=False)

    def update(self, *, step: int, epoch: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """`step`: steps of the phase done; the metrics are of the epoch so far."""
        seconds = time.monotonic() - self._start
        rate = (step - self._first) / max(seconds, 1e-9)
        text = (
            f"epoch {epoch} loss {loss:.4f} accuracy {accuracy:.4f} lr {learning_rate:.2e} "
            f"{rate * self._batch_size:.0f} img/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            remaining = (self._total - step) / max(rate, 1e-9)
            eta = tqdm.format_interval(remaining)
            logging.info("%s: step %d/%d, %s, ETA %s", self._phase, step, self._total, text, eta)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
