"""Admits one pass at a time: an advisory lock that the kernel releases when its holders are gone, however they end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

from pipeline.command import TryAgainError

LOCK_FILE = ".lock"  # of a registry


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[int]:
    """Holds the lock file `path`, created if need be; yields its descriptor.

    The lock belongs to the open file, so a child that inherits the descriptor (`pass_fds`) holds it too: a pass killed
    outright cannot be joined by a second one before the command that it had started is gone as well. The file stays:
    removing it would let two processes lock two different files of one name.

    Raises:
      TryAgainError: another process holds it; says which and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise TryAgainError(f"another pass is running ({holder}); {path} is locked, run again later") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
