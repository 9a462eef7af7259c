"""Admits one process at a time to a folder: a pass of a registry, a quickstart.

On a disk by an advisory lock that the kernel releases when its holders are gone, however they end; in a store by an
owner object that is renewed (`pipeline.format.owner`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from pipeline.command import TryAgainError
from pipeline.format import storage
from pipeline.format.owner import owned

LOCK_FILE = ".lock"  # of a folder on a disk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lock:
    """Describes the lock that a process holds.

    Attributes:
      descriptor: of the lock file, for commands to hold it, too; None in a store.
      check: raises TryAgainError if another process has taken it, which only happens in a store.
    """

    descriptor: int | None
    check: Callable[[], None]


NO_LOCK = Lock(descriptor=None, check=lambda: None)  # nobody takes away what the kernel keeps, or what is not held


@contextlib.contextmanager
def exclusive(root: str, *, doing: str = "runs a pass of this registry") -> Iterator[Lock]:
    """Holds the lock of a folder, which is made if need be.

    The lock of a file belongs to the open file, so a child that inherits the descriptor (`pass_fds`) holds it too: a
    pass killed outright cannot be joined by a second one before the command that it had started is gone as well. The
    file stays: removing it would let two processes lock two different files of one name.

    Args:
      root: the folder.
      doing: what holders do, for people.

    Raises:
      TryAgainError: another process holds it; says which and since when.
    """
    if storage.is_remote(root):
        with owned(root, doing=doing) as owner:
            yield Lock(descriptor=None, check=owner.check)
        return
    storage.make_folder(root)
    path = storage.join(root, LOCK_FILE)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise TryAgainError(f"another process {doing} ({holder}); {path} is locked, run again later") from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
        except OSError as error:
            error.filename = path  # a write tells none
            raise
        yield dataclasses.replace(NO_LOCK, descriptor=descriptor)
    finally:
        os.close(descriptor)
