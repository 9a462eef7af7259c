"""Carries errors for the user across Beam runners, which let only their text through."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipeline.command import FULL, CommandError, ExitCode

_WHILE = " [while running "  # what Beam adds to the line


class BuildError(CommandError):
    """Reports an error to the user from within a step of a pipeline."""

    def __init__(self, exit_code: ExitCode, message: str) -> None:
        super().__init__(f"[{int(exit_code)}] {message}")
        self.exit_code = exit_code


def command_error(error: Exception) -> CommandError | None:
    """Finds the error for the user that made a pipeline fail; None where it failed for a bug."""
    text = f"{type(error).__name__}: {error}"
    _, found, rest = text.rpartition(f"{BuildError.__name__}: [")
    if not found:
        return None
    code, _, message = rest.partition("\n")[0].partition("] ")
    failure = CommandError(message.partition(_WHILE)[0].strip())
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
        if error.errno in FULL:
            raise BuildError(ExitCode.AGAIN, f"{message}; make room and run the same command again") from error
        raise BuildError(ExitCode.INTERNAL, message) from error


@contextlib.contextmanager
def crossing(place: str) -> Iterator[None]:
    """Turns errors for the user, and OSErrors about a file or else `place`, into `BuildError`s, which cross runners."""
    try:
        with storage_errors(place):
            yield
    except BuildError:
        raise
    except CommandError as error:
        raise BuildError(error.exit_code, str(error)) from error
