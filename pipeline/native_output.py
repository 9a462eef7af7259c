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
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

_MOST = 1 << 16  # bytes that are shown: the last ones, in which the reason stands
# Its standard input is a pipe from the process that it watches, its standard output the file, opened for reading. No
# signal to the process group ends it, and a line from the pipe says that all is well.
_WATCH = f"read -r well || {{ tail -c {_MOST} <&1 >&2; }}"

_hidden: list[_Hidden] = []  # none, or one


class _Hidden:
    """Holds the file that takes the place of file descriptor 2, and what had it before."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)
        self._file, name = tempfile.mkstemp(prefix="native-output-")
        try:
            self._watcher = _watched(name, self._stderr)
        finally:
            os.unlink(name)
        os.dup2(self._file, 2)

    def visible(self, encoding: str) -> TextIO:
        """Opens a stream to where file descriptor 2 went before."""
        return open(os.dup(self._stderr), "w", encoding=encoding, errors="backslashreplace", buffering=1)

    def show(self) -> None:
        size = os.fstat(self._file).st_size
        os.write(self._stderr, os.pread(self._file, _MOST, max(0, size - _MOST)))

    def end(self) -> None:
        """Puts everything back."""
        os.dup2(self._stderr, 2)
        self.all_is_well()
        os.close(self._stderr)
        os.close(self._file)

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


def _begin() -> _Hidden | None:
    """Begins to hide; None where that is done already, or there is no standard error, shell or room for a file."""
    if not _hidden and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
            _hidden.append(_Hidden())
            return _hidden[0]
    return None


def hide_native_output() -> None:
    """Sends what is written to file descriptor 2 from now on to a file, in a process that is a command's own.

    Where there is no standard error, no shell or no room for a file, all stays as it is.
    """
    if hidden := _begin():
        sys.stderr = hidden.visible(sys.stderr.encoding)
        faulthandler.enable(sys.stderr)
        warnings.showwarning = _note_warning
        atexit.register(all_is_well)


@contextlib.contextmanager
def native_output_hidden() -> Iterator[None]:
    """Sends what the block writes to file descriptor 2 to a file, in a process that goes on after it.

    Python's own `sys.stderr` and handlers of logs that write there keep writing where it is seen.
    """
    hidden = _begin()
    if hidden is None:
        yield
        return
    before, moved = sys.stderr, None
    if _is_file_descriptor_2(before):
        sys.stderr = moved = hidden.visible(before.encoding)
        _move_handlers(before, moved)
    try:
        yield
    finally:
        if moved:
            sys.stderr = before if sys.stderr is moved else sys.stderr
            _move_handlers(moved, before)  # those of libraries that the block has imported, too
        _hidden.remove(hidden)
        hidden.end()


def _is_file_descriptor_2(stream: TextIO) -> bool:
    """Says whether a stream writes there: a notebook's and a test's does not."""
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


def _move_handlers(before: TextIO, after: TextIO) -> None:
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)


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
        hidden.show()


def all_is_well() -> None:
    """Says that this process is about to end on purpose; for who ends it by `os._exit`."""
    for hidden in _hidden:
        hidden.all_is_well()
