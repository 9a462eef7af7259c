"""Checks, before hours of work, that what a command will write can be written there. Free of TensorFlow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection

from pipeline.command import UsageError
from pipeline.format import kinds, storage

_MIB = 1 << 20


def check_folder(path: str, *, flag: str, needs: int = 0, for_what: str = "") -> None:
    """Checks that a folder can be written, or made; leaves nothing behind.

    Args:
      path: a folder, or where one is to be made; in a store a small object is written and deleted.
      flag: that named it, for messages.
      needs: bytes that will be written; what lies there already counts as written. Not for stores.
      for_what: what takes them, for the message.

    Raises:
      UsageError: it is a file, cannot be written, or the disk has no room.
    """
    if storage.is_remote(path):
        _check_store(path, flag)
        return
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        what = "a link that leads nowhere" if os.path.islink(there) else "a file"
        raise UsageError(f"--{flag}={path}: {there} is {what}, not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(f"--{flag}={path}: nothing can be written in {there} ({error.strerror})") from error
    free = shutil.disk_usage(there).free
    if needs > free and (needs := needs - _written(path)) > free:
        raise UsageError(
            f"--{flag}={path}: {free // _MIB:,} MiB are free on its disk, and about {-(-needs // _MIB):,} are needed"
            f"{f' ({for_what})' if for_what else ''}; make room, or take a folder on another disk"
        )


def check_nothing_is_lost(
    path: str, *, flag: str, kind: str, writes: Collection[str] = (), replaces: Collection[str] | None = None
) -> None:
    """Checks that a folder holds nothing that a person or another command would miss; what is of the kind may go on.

    Args:
      path: the folder, which need not be there.
      flag: that named it, for messages.
      kind: what the command makes of it, one of those in `kinds`.
      writes: names that it writes there.
      replaces: names that may be gone afterwards, and no others; None where the command leaves all others alone.

    Raises:
      UsageError: something is there that is of another kind, has such a name, or may not be gone.
    """
    what = kinds.kind_of(path)
    if what and what != kind:
        raise UsageError(f"--{flag}={path}: it is {what}; take a folder that is empty, or a new one")
    try:
        names = [entry.name for entry in storage.list_folder(path)]
    except OSError:
        return  # none is there yet, or `check_folder` says more
    if replaces is not None:
        lost = [name for name in names if name not in replaces]
    else:
        lost = [] if what else [name for name in names if name in writes]
    if lost:
        raise UsageError(
            f"--{flag}={path}: {min(lost)} lies there, which would be lost; take a folder that is empty, or a new one"
        )


def check_file(path: str, *, flag: str) -> None:
    """Checks that a file can be written. Raises UsageError where it cannot, or there is a folder of its name."""
    if not storage.is_remote(path) and os.path.isdir(path):
        raise UsageError(f"--{flag}={path}: a folder; give the name of a file")
    folder = os.path.dirname(path if storage.is_remote(path) else os.path.abspath(path))
    if not storage.is_remote(path) and not os.path.isdir(folder):
        raise UsageError(f"--{flag}={path}: there is no folder {folder}; make it, or take another")
    check_folder(folder, flag=flag)


def _check_store(path: str, flag: str) -> None:
    probe = storage.join(path, f".probe-{os.urandom(4).hex()}")
    try:
        storage.write_atomically(probe, b"")
        storage.delete(probe)
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(
            f"--{flag}={path}: nothing can be written there ({error.strerror}); is the name right? "
            "python -m trainer.doctor tests the credentials"
        ) from error


def _written(path: str) -> int:
    """Counts the bytes of all files below a local folder."""
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in found if os.path.lexists(file))
