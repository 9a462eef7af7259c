"""Hears what C libraries write to standard error, which is where some of them say that a file is damaged."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

_MAX_BYTES = 1 << 16
_listening = threading.Lock()


class Remarks:
    """Holds what was written; complete when the block of `heard` has ended."""

    text = ""


@contextlib.contextmanager
def heard() -> Iterator[Remarks]:
    """Collects what anybody in this process writes to standard error while the block runs, and keeps it from there."""
    remarks = Remarks()
    with _listening, tempfile.TemporaryFile() as file:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        try:
            before = os.dup(2)
        except OSError:  # there is none
            yield remarks
            return
        os.dup2(file.fileno(), 2)
        try:
            yield remarks
        finally:
            os.dup2(before, 2)
            os.close(before)
            remarks.text = os.pread(file.fileno(), _MAX_BYTES, 0).decode("utf-8", "replace")
