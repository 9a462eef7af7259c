"""Hands files and folders of any store to libraries that read from disks only."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from pipeline.format import storage


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields the path of a file on a disk: `path` itself, or a copy of the same name that the block's end removes."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, path.rpartition("/")[2])
        with storage.open_file(path) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


@contextlib.contextmanager
def local_folder(path: str) -> Iterator[str]:
    """Yields the path of a folder on a disk: `path` itself, or a copy that the block's end removes."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, path.rstrip("/").rpartition("/")[2])
        copy_to_disk(path, copy)
        yield copy


def copy_to_disk(path: str, target: str) -> None:
    """Copies a file, or a folder with all that it holds, to a disk; FileNotFoundError where there is neither."""
    try:
        entries = storage.list_folder(path)
    except NotADirectoryError:
        with storage.open_file(path) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        return
    os.makedirs(target, exist_ok=True)
    for entry in entries:
        copy_to_disk(storage.join(path, entry.name), os.path.join(target, entry.name))
