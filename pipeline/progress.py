"""Shows how many images are done: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_FEW = 32  # images, which are done before anybody wonders
_SECONDS_BETWEEN_LINES = 30.0
_DATE = "%Y-%m-%d %H:%M:%S"  # as the log has it in a file


def duration(seconds: float) -> str:
    """Spells a time that is only roughly known: 40 s, 3 min, 2 h 10 min."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


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
            left = f", {duration(max(0, total - count) / rate)} left{self._left}" if total else ""
            text = f"{self._what}: {count}{of} images, {rate:.{0 if rate >= 10 else 1}f}/s{left}"
            self._out.write(f"{time.strftime(_DATE)} {text}\n")  # in one piece: other threads write there, too
            self._out.flush()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def counted(items: Iterable[_Item], what: str, *, total: int | None) -> Iterator[_Item]:
    """Yields items and shows on standard error how many there were, unless few are expected.

    Args:
      items: one an image.
      what: is done with them.
      total: their number; None where nobody knows it.
    """
    if total is not None and total <= _FEW:
        yield from items
        return
    with contextlib.closing(ImageCount(what, sys.stderr)) as shown:
        for count, item in enumerate(items, start=1):
            shown.show(count, total)
            yield item


@contextlib.contextmanager
def counting(look: Callable[[_Item], _Found], what: str, *, total: int) -> Iterator[Callable[[_Item], _Found]]:
    """Yields a function that does the same, and shows on standard error how many images it has done, in any threads.

    Args:
      look: is called with an image.
      what: is done with them.
      total: number of calls.
    """
    lock, done = threading.Lock(), 0

    def look_and_count(item: _Item) -> _Found:
        nonlocal done
        found = look(item)
        with lock:
            done += 1
            shown.show(done, total)
        return found

    with contextlib.closing(ImageCount(what, sys.stderr)) as shown:
        yield look_and_count
