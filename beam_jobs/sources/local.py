"""Reads image files on a local disk; refuses what is no file, or too large for an image, before it reads a byte."""

from __future__ import annotations

import contextlib
import os
import stat

from pipeline.images.policy import PixelPolicy, ReadError, RejectCode, too_many_bytes

# Opening a pipe without this waits for somebody to write into it.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK


def read_image(path: str, *, max_bytes: int = PixelPolicy.max_bytes) -> bytes:
    """Reads the file's bytes.

    Raises:
      ReadError: no such file, or not one that can be read; a pipe, socket or device; more than `max_bytes`.
    """
    try:
        with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, _FLAGS)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ReadError(RejectCode.UNREADABLE, "not a file but a pipe, socket or device")
            if status.st_size > max_bytes:
                raise ReadError(RejectCode.TOO_MANY_BYTES, too_many_bytes(status.st_size, max_bytes))
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ReadError(RejectCode.UNREADABLE, getattr(error, "strerror", None) or str(error)) from error


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
