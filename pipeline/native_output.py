"""Keeps what native libraries write to file descriptor 2 out of sight, until something fails.

TensorFlow, absl, XNNPACK and LiteRT write notes on the machine there, beneath Python, which look like errors and are
none. They go to a temporary file. Python's own `sys.stderr` stays what it was: our lines, warnings and tracebacks come
at once. A process that ends without having said that all is well, by a crash in native code or SIGKILL too, has its
file shown by a shell that waits for that and outlives it.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import subprocess
import sys
import tempfile
import warnings
from typing import Any

_MOST = 1 << 16  # bytes that are shown: the last ones, in which the reason stands
# Its standard input is a pipe from the process that it watches, its standard output the file, opened for reading. No
# signal to the process group ends it, and a line from the pipe says that all is well.
_WATCH = f"read -r well || {{ tail -c {_MOST} <&1 >&2; }}"

_hidden: list[_Hidden] = []  # none, or one


class _Hidden:
    """Holds the file that takes the place of file descriptor 2."""

    def __init__(self, file: int, watcher: subprocess.Popen[bytes]) -> None:
        self._file, self._watcher = file, watcher

    def text(self) -> bytes:
        size = os.fstat(self._file).st_size
        return os.pread(self._file, _MOST, max(0, size - _MOST))

    def all_is_well(self) -> None:
        assert self._watcher.stdin
        with contextlib.suppress(OSError, ValueError):  # the watcher was killed, or this was said before
            self._watcher.stdin.write(b"\n")
            self._watcher.stdin.close()
            self._watcher.wait()


def _watched(name: str, stderr: int) -> subprocess.Popen[bytes]:
    """Starts the shell that shows a file if this process ends without having said that all is well."""
    with open(name, "rb") as file:
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=stderr,
            start_new_session=True,  # beyond the reach of Ctrl-C
        )


def hide_native_output() -> None:
    """Sends what is written to file descriptor 2 from now on to a file; only the first call in a process does that.

    Where there is no standard error, no shell or no room for a file, all stays as it is.
    """
    if _hidden or sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        stderr = os.dup(2)
        file, name = tempfile.mkstemp(prefix="native-output-")
        try:
            watcher = _watched(name, stderr)
        finally:
            os.unlink(name)
        _hidden.append(_Hidden(file, watcher))
        os.dup2(file, 2)
        sys.stderr = open(stderr, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115
        faulthandler.enable(sys.stderr)
        warnings.showwarning = _note_warning
        atexit.register(all_is_well)


def _note_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Writes a warning of Python's where libraries write: it is for who develops them."""
    note_hidden(warnings.formatwarning(message, category, filename, lineno, line))


def note_hidden(text: str) -> None:
    """Writes text where native libraries write."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


def show_native_output() -> None:
    """Writes what was hidden to standard error: something has failed."""
    for hidden in _hidden:
        sys.stderr.flush()
        os.write(sys.stderr.fileno(), hidden.text())


def all_is_well() -> None:
    """Says that this process is about to end on purpose; for who ends it by `os._exit`."""
    for hidden in _hidden:
        hidden.all_is_well()
