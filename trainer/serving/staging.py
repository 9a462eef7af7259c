"""Puts a folder in the place of another one, as a whole, whoever else does that at the same moment."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

_STAGING = ".staging"
_SECONDS_TO_LOCK = 10.0  # a folder that is younger may be locked at any moment


@contextlib.contextmanager
def staged(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder beside `target`, which takes its place in the end; of several the last one that ends stays.

    A lock tells the folder of one that is at work from what a killed one has left, which the next one removes. Where
    folders cannot be locked (NFS) that stays.

    Args:
      target: a folder, or where one is to be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    staging = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}{_STAGING}"
    staging.mkdir()
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        new, old = staging / "new", staging / "old"
        new.mkdir()
        yield new
        _swap(new, target, old)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # on a full disk it is what takes the room
        os.close(descriptor)


def _swap(new: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
    """Puts `new` in the place of `target`, which a reader sees whole, old or new, or for an instant not at all."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)
        try:
            new.rename(target)
            return
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(old, ignore_errors=True)  # another one has put its own there meanwhile


def _remove_leftovers(target: pathlib.Path) -> None:
    for folder in target.parent.iterdir():
        if not (folder.name.startswith(f".{target.name}.") and folder.name.endswith(_STAGING)):
            continue
        with contextlib.suppress(OSError):  # somebody is at work there, or has just removed it
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                if time.time() - os.fstat(descriptor).st_mtime > _SECONDS_TO_LOCK:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
