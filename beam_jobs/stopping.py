"""Ctrl-C and SIGTERM end the process at once: whatever is on disk must be fit for a SIGKILL at any moment anyway."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pipeline.cli import ExitCode


@contextlib.contextmanager
def stoppable(clean_up: Callable[[], None] = lambda: None) -> Iterator[Callable[[str, int], None]]:
    """Handles both signals while the body runs; without this, Python would wait for threads and Beam for workers.

    Args:
      clean_up: called before the end.

    Yields: what ends the process likewise, given a message and an exit code.
    """
    stderr = sys.stderr

    def end(message: str, code: int) -> None:
        clean_up()
        print(message, file=stderr, flush=True)
        os._exit(code)

    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            end("interrupted; run the same command again to continue", 128 + signal.SIGINT)
        end("error: terminated; run the same command again to continue", ExitCode.AGAIN)

    if threading.current_thread() is not threading.main_thread():
        yield end  # signals cannot be handled here
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
