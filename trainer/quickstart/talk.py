"""Tells people how it goes: lines, and on a terminal one line below them that says what is being done."""

from __future__ import annotations

import shutil
import sys
import time

from pipeline.command import printable_line

_SECONDS_BETWEEN_LINES = 60.0  # of what is being done, where there is no terminal


class Talk:
    """Prints to standard output; what is being done to standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self.clear()
        clock = time.strftime("%H:%M" if self._terminal else "%Y-%m-%d %H:%M:%S")
        print(f"{clock}  {text}", flush=True)
        self._last = time.monotonic()

    def more(self, text: str) -> None:
        """Prints what belongs to the line above."""
        self.clear()
        print(f"{' ' * (5 if self._terminal else 19)}  {text}", flush=True)

    def doing(self, text: str) -> None:
        """Shows what is being done now, in place of what was shown before; in a log once a minute."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\033[K{printable_line(text)[:width]}")
            sys.stderr.flush()
        elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self.line(text)

    def clear(self) -> None:
        """Takes away what `doing` shows."""
        if self._terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
