"""Says how many steps a host call takes: many, lest a TPU wait for its host, but none that a stop has to wait for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_SECONDS_A_CALL = 1.0


class Pace:
    """Measures the steps of a phase, and keeps host calls to about a second.

    Attributes:
      calls: how many there were.
    """

    def __init__(self, most: int, *, fixed: bool) -> None:
        """Begins a phase.

        Args:
          most: steps of a call.
          fixed: whether every call has so many, because other processes do the same calls.
        """
        self._most, self._fixed = most, fixed
        self._seconds_a_step: float | None = None
        self.calls = 0

    def steps(self) -> int:
        """Returns how many steps the next call may have."""
        if self._fixed:
            return self._most
        if self._seconds_a_step is None:
            return 1
        return max(1, min(self._most, int(_SECONDS_A_CALL / self._seconds_a_step)))

    @contextlib.contextmanager
    def timed(self, steps: int) -> Iterator[None]:
        """Times a call of so many steps; the first one says nothing, it may compile."""
        started = time.monotonic()
        yield
        if self.calls:
            self._seconds_a_step = max(time.monotonic() - started, 1e-9) / steps
        self.calls += 1
