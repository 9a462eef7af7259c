"""Shows the progress of a running pipeline: workers leave counts in small files, which the launcher adds up.

Files work for every runner that shares a file system with its workers; Beam's own metrics arrive only at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TextIO

_WRITE_SECONDS = 0.5
_LOG_SECONDS = 30.0


class Counter:
    """Counts on a worker's side; `add` is cheap and writes twice a second at most."""

    def __init__(self, directory: str, stage: str) -> None:
        self._path = os.path.join(directory, f"{stage}-{uuid.uuid4().hex}")
        self._count = 0
        self._written = time.monotonic()

    def add(self, count: int = 1) -> None:
        self._count += count
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the count now. Progress is no reason to fail: errors are ignored."""
        self._written = time.monotonic()
        with contextlib.suppress(OSError), open(self._path, "w") as file:
            file.write(str(self._count))


def _read(directory: str, stage: str) -> int:
    total = 0
    for name in os.listdir(directory):
        if name.startswith(f"{stage}-"):
            with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, name)) as file:
                total += int(file.read())
    return total


class _Display:
    """Shows a bar on a terminal, a line now and then in a log."""

    def __init__(self, stage: str, total: int, out: TextIO) -> None:
        self._stage, self._total, self._out = stage, total, out
        self._start = time.monotonic()
        self._next_line = self._start + _LOG_SECONDS
        self._bar = None
        if out.isatty():
            from tqdm import tqdm  # takes longer to import than all else here, and workers show nothing

            self._bar = tqdm(total=total, desc=stage, unit=" images", leave=False, file=out)

    def show(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count - self._bar.n)
            return
        now = time.monotonic()
        if count and now >= self._next_line:
            self._next_line = now + _LOG_SECONDS
            rate = count / (now - self._start)
            left = max(0, self._total - count) / rate
            print(f"{self._stage}: {count} of {self._total} images, {rate:.0f}/s, {left:.0f} s left", file=self._out)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def shown(directory: str, *, stages: tuple[str, ...], total: int) -> Iterator[None]:
    """Shows the stages' progress, one after the other, while the body runs.

    Args:
      directory: where workers' `Counter`s write; emptied first.
      stages: in the order in which they run; a stage is shown from its first count on.
      total: images to get through in each stage.
    """
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    done, out = threading.Event(), sys.stderr

    def watch() -> None:
        display, current = None, -1
        while not done.wait(1.0):
            counts = [_read(directory, stage) for stage in stages]
            latest = max((i for i, count in enumerate(counts) if count), default=-1)
            if latest < 0:
                continue
            if latest != current:
                if display:
                    display.close()
                display, current = _Display(stages[latest], total, out), latest
            if display:
                display.show(counts[latest])
        if display:
            display.close()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
