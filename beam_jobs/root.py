"""Keeps the dataset root's protocol without renames and locks, on a disk as in a store.

DATA/CURRENT                      the version in use, moved last and never backwards
DATA/versions/1.0.0/              a version; whole when it has its manifest.json, which is written last
DATA/versions/1.0.0/claim         the key of the build that this number belongs to; created only where there is none
DATA/.build/findings/POLICY/      what killed runs found in images (known.py)
DATA/.build/shards/1.0.0/         which of an unfinished version's shards are whole (write.py)
DATA/.build/same/KEY              the version that a build came out equal to

A killed build is continued under the number that it claimed. Two builds at once end as two versions or, if their keys
are equal, as one, of which both write the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from beam_jobs.publish import build_key
from beam_jobs.settings import WORK_DIR
from pipeline.format import storage
from pipeline.format.manifest import CURRENT_FILE, MANIFEST_FILE, VERSIONS_DIR, Manifest

CLAIM_FILE = "claim"
_VERSION = re.compile(r"^(\d+)\.0\.0$")


def _number(version: str) -> int:
    return int(version.partition(".")[0])


def version_directory(root: str, version: str) -> str:
    """Names the folder of a version."""
    return storage.join(root, VERSIONS_DIR, version)


def _numbered(root: str) -> list[str]:
    """Lists all versions, whole or not, oldest first."""
    try:
        entries = storage.list_folder(storage.join(root, VERSIONS_DIR))
    except FileNotFoundError:
        return []
    return sorted((entry.name for entry in entries if _VERSION.match(entry.name)), key=_number)


def manifest_of(root: str, version: str) -> Manifest | None:
    """Reads a version's manifest; None where it has none or a damaged one: then it is no version."""
    try:
        return Manifest.from_json(storage.read_text(storage.join(version_directory(root, version), MANIFEST_FILE)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def versions(root: str) -> list[str]:
    """Lists the whole versions, oldest first."""
    return [
        version
        for version in _numbered(root)
        if storage.exists(storage.join(version_directory(root, version), MANIFEST_FILE))
    ]


def _text(path: str) -> str | None:
    try:
        return storage.read_text(path).strip()
    except FileNotFoundError:
        return None


def published_as(root: str, key: str) -> str | None:
    """Finds the newest whole version that this input and configuration gave, or None."""
    alias = _text(storage.join(root, WORK_DIR, "same", key))
    for version in reversed(_numbered(root)):
        manifest = manifest_of(root, version)
        if manifest and (version == alias or build_key(manifest.source_fingerprint, manifest.build) == key):
            return version
    return None


def claim(root: str, key: str) -> str:
    """Claims a version's number for a build, or finds the one that it has claimed before it was killed."""
    taken = _numbered(root)
    for version in reversed(taken):
        if _text(storage.join(version_directory(root, version), CLAIM_FILE)) == key and not manifest_of(root, version):
            return version
    number = _number(taken[-1]) if taken else 0
    while True:
        number += 1
        directory = version_directory(root, f"{number}.0.0")
        storage.make_folder(directory)
        path = storage.join(directory, CLAIM_FILE)
        if storage.create(path, key) or _text(path) == key:
            return f"{number}.0.0"


def remember(root: str, key: str, version: str) -> None:
    """Notes that a build came out equal to an existing version."""
    folder = storage.join(root, WORK_DIR, "same")
    storage.make_folder(folder)
    storage.write_atomically(storage.join(folder, key), version, shared=True, durable=True)


def set_current(root: str, version: str) -> None:
    """Moves the pointer, never backwards."""
    current = _text(storage.join(root, CURRENT_FILE))
    if current is None or not _VERSION.match(current) or _number(current) < _number(version):
        storage.write_atomically(storage.join(root, CURRENT_FILE), f"{version}\n", shared=True, durable=True)


def prune(root: str, *, keep: int) -> Sequence[str]:
    """Removes the oldest whole versions beyond `keep`, never the current one; returns their names."""
    current = _text(storage.join(root, CURRENT_FILE))
    old = [version for version in versions(root)[:-keep] if version != current]
    for version in old:
        directory = version_directory(root, version)
        storage.delete(storage.join(directory, MANIFEST_FILE))  # first: a reader refuses what is half removed
        storage.delete(directory)
    return old
