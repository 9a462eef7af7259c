"""Keeps blocks of rows on disk, so that Beam shuffles only where each block lies.

Local Beam runners keep everything that passes between two steps in memory, several times over; with the blocks
themselves that came to 2 kB an image. All workers must see the directory, like the rest of the work directory.
"""

from __future__ import annotations

import io
import os

from beam_jobs.errors import storage_errors

Place = tuple[str, int, int]  # file, offset, length
Block = bytes | Place  # a block itself, or where it is

_INLINE_BYTES = 1024  # a reference would hardly be smaller


class Spool:
    """Writes a worker's own file in the spool directory; made on first use, never read before its block is written."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._file: io.FileIO | None = None
        self._end = 0

    def put(self, content: bytes) -> Block:
        """Stores a block, unless a reference would hardly be smaller. Raises BuildError (the disk is full)."""
        return content if len(content) <= _INLINE_BYTES else self.store(content)

    def store(self, content: bytes) -> Place:
        """Stores on disk whatever the size: for images, no byte of which may be shuffled. Raises BuildError."""
        with storage_errors(self._directory):
            return self._write(content)

    def _write(self, content: bytes) -> Place:
        if self._file is None:
            path = os.path.join(self._directory, f"{os.getpid()}-{os.urandom(8).hex()}")
            self._file = io.FileIO(path, "w")  # as long as the worker lives
        view = memoryview(content)
        while view:  # an unbuffered write may be cut short
            view = view[self._file.write(view) :]
        offset, self._end = self._end, self._end + len(content)
        return self._file.name, offset, len(content)


def content(block: Block) -> bytes:
    """Returns the content of a block, read from the disk if it lies there."""
    if isinstance(block, bytes):
        return block
    path, offset, length = block
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)
