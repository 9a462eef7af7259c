"""Writes files whole or not at all. Free of TensorFlow."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath


_BUFFER = 1 << 20  # shards of small images are written in small pieces


@contextlib.contextmanager
def whole_file(
    path: str | pathlib.Path | epath.Path, *, shared: bool = False, durable: bool = False
) -> Iterator[IO[bytes]]:
    """Opens a file under a temporary name that becomes its own when the block ends, and vanishes if it fails.

    A reader sees the old or the new content, never half.

    Args:
      path: local, or an `epath.Path` of a bucket; its directory exists.
      shared: whether others may write the same file at this moment: each then has a temporary name of its own. Without,
        what a killed writer left behind is overwritten by the next.
      durable: whether the content survives a power cut (local files only).
    """
    target = pathlib.Path(path) if isinstance(path, str) else path
    suffix = f".{os.getpid()}.{os.urandom(4).hex()}" if shared else ""
    temporary = target.parent / f".{target.name}{suffix}.tmp"
    is_remote = "://" in str(path)
    try:
        with temporary.open("wb") if is_remote else open(temporary, "wb", buffering=_BUFFER) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_atomically(
    path: str | pathlib.Path | epath.Path, content: bytes | str, *, shared: bool = False, durable: bool = False
) -> None:
    """Replaces a file whole or not at all; text is written as UTF-8. See `whole_file` for the arguments."""
    with whole_file(path, shared=shared, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)
