"""Runs commands on a terminal of their own, as a person sees them."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import struct
import termios
import time
from collections.abc import Sequence

_ROWS, _COLUMNS = 40, 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """Holds what a terminal was sent, how the command ended, and when it answered a key.

    Attributes:
      raw: all that was sent.
      code: the exit code, negative for a signal.
      answered: seconds from the key to the first output after it; None without either.
    """

    raw: str
    code: int
    answered: float | None

    @property
    def screen(self) -> list[str]:
        """Returns the lines that stand on the terminal at the end: what was written over is gone."""
        lines, column = [""], 0
        for char in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw):
            if char == "\r":
                column = 0
            elif char == "\n":
                lines.append("")
                column = 0
            else:
                line = lines[-1].ljust(column)
                lines[-1] = line[:column] + char + line[column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


def on_terminal(
    command: Sequence[str], *, cwd: object = None, key: bytes = b"", after: str = "", environment: dict | None = None
) -> Seen:
    """Runs a command on a terminal; presses a key (b"\\x03" is Ctrl-C) once `after` has been seen."""
    child, terminal = pty.fork()
    if not child:
        if cwd:
            os.chdir(cwd)
        os.execvpe(command[0], list(command), environment or dict(os.environ))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    raw, pressed, told_at, answered = "", None, 0, None
    while True:
        try:
            part = os.read(terminal, 1 << 16).decode("utf-8", "replace")
        except OSError:  # the other end is closed
            break
        if not part:
            break
        raw += part
        if pressed is not None and answered is None and raw[told_at:].replace("^C", "").strip("^ \r\n"):
            answered = time.monotonic() - pressed
        if key and pressed is None and after in raw:
            pressed, told_at = time.monotonic(), len(raw)
            os.write(terminal, key)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return Seen(raw=raw, code=os.waitstatus_to_exitcode(status), answered=answered)
