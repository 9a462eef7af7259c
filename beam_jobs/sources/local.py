"""Reads image files on a local disk; refuses what is no file, or too large for an image, before it reads a byte."""

from __future__ import annotations

import contextlib
import os
import stat

from pipeline.images.policy import PixelPolicy, ReadError, RejectCode, too_many_bytes

# Opening a pipe without this waits for somebody to write into it.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK
# What stands in a file's place until a tool fetches it: beginning → what it is, and the command.
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the image; git lfs pull fetches it",
    b"/annex/objects/": "a git-annex pointer, not the image; git annex get fetches it",
}


def read_image(path: str, *, max_bytes: int = PixelPolicy.max_bytes) -> bytes:
    """Reads the file's bytes.

    Raises:
      ReadError: no such file, or not one that can be read; a pipe, socket or device; more than `max_bytes`; a pointer.
    """
    try:
        with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, _FLAGS)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ReadError(RejectCode.UNREADABLE, "not a file but a pipe, socket or device")
            if status.st_size > max_bytes:
                raise ReadError(RejectCode.TOO_MANY_BYTES, too_many_bytes(status.st_size, max_bytes))
            return refuse_pointers(file.read())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ReadError(RejectCode.UNREADABLE, getattr(error, "strerror", None) or str(error)) from error


def refuse_pointers(data: bytes) -> bytes:
    """Returns a file's bytes. Raises ReadError where they only say where the image is."""
    for beginning, what in _POINTERS.items():
        if data.startswith(beginning):
            raise ReadError(RejectCode.UNREADABLE, what)
    return data


def announce(path: str) -> None:
    """Has the system begin to bring a file to memory; only a hint, so nothing is raised."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(path, _FLAGS)
        try:
            os.posix_fadvise(descriptor, 0, PixelPolicy.max_bytes, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
