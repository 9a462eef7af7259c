"""Writing a file whole or not at all. Free of TensorFlow."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath


def write_atomically(path: epath.Path | pathlib.Path, content: bytes | str, *, shared: bool = False) -> None:
    """Writes a file under a temporary name and renames it: a reader sees the old or the new content, never half.

    Args:
      path: local or gs://; its directory exists.
      content: text is written as UTF-8.
      shared: whether others may write the same file at this moment: each then has a temporary name of its own. Without,
        what a killed writer left behind is overwritten by the next.
    """
    suffix = f".{os.getpid()}.{os.urandom(4).hex()}" if shared else ""
    temporary = path.parent / f".{path.name}{suffix}.tmp"
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
