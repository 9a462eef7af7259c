"""Ends a build at once on Ctrl-C and SIGTERM, with one line and without cleaning up.

Beam would wait, perhaps for ever; and whatever is on disk must be fit for a SIGKILL at any moment anyway.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn, TextIO

from beam_jobs import worker
from pipeline.command import ExitCode, end_at_once


def end(message: str, code: int, out: TextIO) -> NoReturn:
    """Ends the process and its workers with a line of explanation."""
    worker.kill_all(os.getpid())
    end_at_once(code, message, out)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Makes signals end the process while the body runs; may be nested. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be handled here
        return
    stderr = sys.stderr

    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            end("interrupted; run the same command again to continue", 128 + signal.SIGINT, stderr)
        end("error: terminated; run the same command again to continue", ExitCode.AGAIN, stderr)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
