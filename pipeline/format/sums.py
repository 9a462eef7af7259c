"""Writes and checks SHA256SUMS: the digests of a folder's files, as `sha256sum` writes and reads them."""

from __future__ import annotations

import hashlib
import os
import pathlib

from pipeline.format import storage

SUMS_FILE = "SHA256SUMS"


def write_sums(folder: pathlib.Path) -> None:
    """Writes a line for each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS_FILE)
    lines = [f"{_sha256(os.fspath(path))}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def damage(folder: str, *, part: str = "") -> list[str]:
    """Says which files are not those that were written; nothing of a folder without sums.

    Args:
      folder: local or in a store.
      part: only the file, or what is in the folder, of this name; "" for all.
    """
    try:
        sums = storage.read_text(storage.join(folder, SUMS_FILE))
    except FileNotFoundError:
        return []
    found = []
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        if part and name != part and not name.startswith(f"{part}/"):
            continue
        try:
            if _sha256(storage.join(folder, name)) != digest:
                found.append(f"{name} is not what was published")
        except (FileNotFoundError, IsADirectoryError):
            found.append(f"{name} is gone")
    return found


def _sha256(path: str) -> str:
    with storage.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
