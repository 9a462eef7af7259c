"""Errors for the user that cross Beam runners: only their text does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from pipeline.command import CommandError, ExitCode

# As the text of whatever the runner raises has it.
_BUILD_ERROR = re.compile(r"BuildError: \[(\d+)\] (.*?)(?: \[while running .*)?$", re.MULTILINE)


class BuildError(Exception):
    """An error for the user, raised in a step of a pipeline."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(f"[{int(exit_code)}] {message}")


def command_error(error: Exception) -> CommandError | None:
    """The error for the user that made a pipeline fail, or None: it failed for a bug."""
    found = _BUILD_ERROR.findall(f"{type(error).__name__}: {error}")
    if not found:
        return None
    code, message = found[-1]
    failure = CommandError(message.strip())
    failure.exit_code = ExitCode(int(code))
    return failure


@contextlib.contextmanager
def storage_errors(directory: str) -> Iterator[None]:
    """Turns an OSError (the disk is full) into a `BuildError` that names the file or else `directory`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{error.filename or directory}: {reason}; nothing was published"
        raise BuildError(ExitCode.INTERNAL, message) from error
