"""Writes the log as people read it: short lines on a terminal, lines with date and time in a file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, TextIO

from pipeline.native_output import note_hidden

_OF_LIBRARIES = ("/tensorflow/", "/keras/", "/tf_keras/", "/keras_cv/")


def write_line(text: str) -> None:
    """Writes a line on standard error; a bar that stands there is taken away before, and drawn anew below it."""
    if tqdm := sys.modules.get("tqdm"):  # nobody else draws bars
        tqdm.tqdm.write(text, file=sys.stderr)
    else:
        sys.stderr.write(text + "\n")  # in one piece: other threads write there, too
    sys.stderr.flush()


def write_at_once(text: str, stream: TextIO) -> None:
    """Writes a line past the stream's buffer, as the last one of a process or by a handler of signals.

    What a handler has interrupted may be the writing of another line there, in which streams let nobody else write.
    """
    line = text + "\n"
    try:
        os.write(stream.fileno(), line.encode(errors="backslashreplace"))
    except (OSError, ValueError):  # closed, or no file at all
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.write(line)


class LogLines(logging.Handler):
    """Writes records of the log as lines; what TensorFlow and Keras note is hidden with their native output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.levelno < logging.ERROR and any(part in record.pathname for part in _OF_LIBRARIES):
                note_hidden(self.format(record) + "\n")
            else:
                write_line(self.format(record))
        except BrokenPipeError:
            pass  # nobody reads on
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Puts the time before a message, which only names its level where that is no mere note."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self._now(record)} {level}{super().format(record)}"

    def _now(self, record: logging.LogRecord) -> str:
        return logging.Formatter().formatTime(record, "%H:%M" if sys.stderr.isatty() else "%Y-%m-%d %H:%M:%S")


def use_log_lines(absl_handler: Any) -> None:
    """Has the root logger write `LogLines` in place of what absl's handler writes."""
    root = logging.getLogger()
    root.removeHandler(absl_handler)
    root.addHandler(LogLines())
