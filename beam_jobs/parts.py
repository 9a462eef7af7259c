"""Keeps what a step has done in part files, from which a killed or repeated one goes on.

A part appears whole and is never changed. Its name says how many entries it holds, so whoever shows the progress of a
build need not read it. A bundle that runs twice may leave its entries twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pipeline.format import storage
from pipeline.format.packing import pack, unpack

_SUFFIX = ".msgpack"


def write_part(entries: Sequence[bytes], folder: str, *, form: str, prefix: str = "part") -> None:
    """Writes a part.

    Args:
      entries: what it holds.
      folder: where it goes; made where folders are made.
      form: names what the entries are, and their version; read back under the same name only.
      prefix: what the file's name begins with; without a dash.

    Raises:
      OSError: it cannot be written.
    """
    storage.make_folder(folder)
    name = f"{prefix}-{len(entries)}-{uuid.uuid4().hex}{_SUFFIX}"
    storage.write_atomically(storage.join(folder, name), pack((form, list(entries))), shared=True)


def read_part(path: str, *, form: str) -> tuple[bytes, ...]:
    """Reads a part's entries; none of a damaged one, one of another form, or one that has gone."""
    try:
        found, entries = unpack(storage.read(path))
        whole = isinstance(entries, tuple) and all(isinstance(entry, bytes) for entry in entries)
        return entries if found == form and whole else ()
    except (OSError, ValueError, TypeError):
        return ()


def list_parts(folder: str, *, prefix: str = "") -> list[str]:
    """Lists the paths of a folder's parts; none where there is no such folder, or it cannot be listed."""
    try:
        entries = storage.list_folder(folder)
    except OSError:
        return []
    names = (entry.name for entry in entries if not entry.is_folder)
    return [storage.join(folder, name) for name in names if name.startswith(prefix) and name.endswith(_SUFFIX)]


def entries_in(path: str) -> int:
    """Returns the number of entries that a part's name says it holds; 0 of a name that says none."""
    fields = path.rpartition("/")[2].split("-")
    return int(fields[1]) if len(fields) == 3 and fields[1].isdecimal() else 0
