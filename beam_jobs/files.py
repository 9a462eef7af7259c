"""Reads and stamps files on a local disk or, by Beam's FileSystems, in a bucket (gs://…); writes to a bucket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

_UNCOMPRESSED = "uncompressed"  # CompressionTypes.UNCOMPRESSED: bytes as they are, whatever the file is called


def _file_systems() -> Any:
    # Beam takes 2 seconds to import, which a command that touches local files only should not pay.
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def is_remote(path: str) -> bool:
    """Says whether `path` is a URL of a file system other than the local one."""
    return "://" in path


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # A null byte in the path; or the scheme's file system is not installed, and the message names the fix.
        raise OSError(str(error)) from error


def open_file(path: str) -> IO[bytes]:
    """Opens a file for reading; OSError if it cannot be."""
    with _as_os_error():
        if not is_remote(path):
            return open(path, "rb")
        file: IO[bytes] = _file_systems().open(path, compression_type=_UNCOMPRESSED)
        return file


def file_stamp(path: str) -> tuple[int, str]:
    """Returns (size in bytes, "size:time of the last change"); OSError if the file is absent."""
    with _as_os_error():
        if not is_remote(path):
            status = os.stat(path)
            return status.st_size, f"{status.st_size}:{status.st_mtime_ns}"
        found = _file_systems().get_filesystem(path).metadata(path)
    return found.size_in_bytes, f"{found.size_in_bytes}:{found.last_updated_in_seconds}"


def write_object(path: str, parts: Iterable[bytes | memoryview]) -> None:
    """Writes an object of a bucket (not a local file), which appears when it is whole."""
    with _file_systems().create(path, compression_type=_UNCOMPRESSED) as remote:
        for part in parts:
            remote.write(part)
