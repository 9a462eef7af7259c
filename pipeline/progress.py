"""Shows how many images are done: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from typing import TextIO

_SECONDS_BETWEEN_LINES = 30.0
_DATE = "%Y-%m-%d %H:%M:%S"  # as the log has it in a file


class ImageCount:
    """Shows one stretch of work that is counted in images."""

    def __init__(self, what: str, out: TextIO, *, at_most: bool = False) -> None:
        """Begins to show it.

        Args:
          what: is done, which begins the lines.
          out: where it is shown.
          at_most: whether some images of a total may never come.
        """
        self._what, self._out = what, out
        self._of, self._left = ("at most ", " at most") if at_most else ("", "")
        self._start = time.monotonic()
        self._next_line = self._start + _SECONDS_BETWEEN_LINES
        self._bar = None
        self._drawn = False
        if out.isatty():
            from tqdm import tqdm  # takes longer to import than all else here

            self._bar = tqdm(desc=what, unit=" images", leave=False, file=out, miniters=1)

    def show(self, count: int, total: int | None) -> None:
        """Shows that `count` images are done, of `total`, or of nobody knows how many."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(count - self._bar.n)
            if not self._drawn:  # all may be over before the bar's own interval is
                self._bar.refresh()
                self._drawn = True
            return
        now = time.monotonic()
        if count and now >= self._next_line:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            rate = count / (now - self._start)
            of = f" of {self._of}{total}" if total else ""
            left = f", {max(0, total - count) / rate:.0f} s left{self._left}" if total else ""
            text = f"{self._what}: {count}{of} images, {rate:.0f}/s{left}"
            self._out.write(f"{time.strftime(_DATE)} {text}\n")  # in one piece: other threads write there, too
            self._out.flush()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
