"""Hands a file of any store to a library that reads from disks only."""

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
