"""Keeps the dataset root's protocol without renames and locks, on a disk as in a store.

DATA/CURRENT                      the version in use, moved last and never backwards
DATA/versions/1.0.0/              a version; whole when it has its manifest.json, which is written last
DATA/versions/1.0.0/claim         the key of the build that this number belongs to, and since when; never overwritten
DATA/.build/findings/POLICY/      what killed runs found in images (known.py)
DATA/.build/runs/RUN/             what a run tells its launcher (settings.py)
DATA/.build/shards/1.0.0/         which of an unfinished version's shards are whole (write.py)
DATA/.build/same/KEY              the version that a build came out equal to

A killed build is continued under the number that it claimed. Two builds at once end as two versions or, if their keys
are equal, as one, of which both write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.settings import WORK_DIR
from pipeline.format import storage
from pipeline.format.manifest import CURRENT_FILE, MANIFEST_FILE, VERSIONS_DIR, Manifest

CLAIM_FILE = "claim"
_ABANDONED_SECONDS = 7 * 24 * 3600
_VERSION = re.compile(r"^(\d+)\.0\.0$")


def _number(version: str) -> int:
    return int(version.partition(".")[0])


def build_key(source_fingerprint: str, build: Mapping[str, Any]) -> str:
    """Names an input and a configuration: equal keys, equal datasets."""
    return hashlib.sha256(json.dumps([source_fingerprint, build], sort_keys=True).encode()).hexdigest()[:32]


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


def next_version(root: str) -> str:
    """Names the next version: by TFDS's semantics, other content is another major version."""
    taken = _numbered(root)
    return f"{_number(taken[-1]) + 1 if taken else 1}.0.0"


def published_as(root: str, key: str) -> str | None:
    """Finds the newest whole version that this input and configuration gave, or None."""
    alias = _text(storage.join(root, WORK_DIR, "same", key))
    for version in reversed(_numbered(root)):
        manifest = manifest_of(root, version)
        if manifest and (version == alias or build_key(manifest.source_fingerprint, manifest.build) == key):
            return version
    return None


def _claimed(root: str, version: str) -> tuple[str, float]:
    """Reads whose a version's number is, and since when (seconds since 1970); ("", 0) where nothing says so."""
    key, _, since = (_text(storage.join(version_directory(root, version), CLAIM_FILE)) or "").partition(" ")
    try:
        return key, float(since)
    except ValueError:
        return key, 0.0


def claim(root: str, key: str) -> str:
    """Claims a version's number for a build, or finds the one that it has claimed before it was killed."""
    taken = _numbered(root)
    for version in reversed(taken):
        if _claimed(root, version)[0] == key and not manifest_of(root, version):
            return version
    while True:
        version = next_version(root)
        directory = version_directory(root, version)
        storage.make_folder(directory)
        if storage.create(storage.join(directory, CLAIM_FILE), f"{key} {time.time():.0f}"):
            return version
        if _claimed(root, version)[0] == key:
            return version  # by another run of the same build, at this moment


def remember(root: str, key: str, version: str) -> None:
    """Notes that a build came out equal to an existing version."""
    folder = storage.join(root, WORK_DIR, "same")
    storage.make_folder(folder)
    storage.write_atomically(storage.join(folder, key), version, shared=True, durable=True)


def set_current(root: str, version: str) -> str:
    """Moves the pointer to a whole version, never backwards; returns where it points."""
    path = storage.join(root, CURRENT_FILE)
    while True:
        current = _text(path)
        if current is not None and _VERSION.match(current) and _number(current) >= _number(version):
            return current
        storage.write_atomically(path, f"{version}\n", shared=True, durable=True)
        # Another build may have written a newer one since it was read, and just lost it: its version is whole by then.
        version = max(versions(root), key=_number, default=version)


def prune(root: str, *, keep: int) -> Sequence[str]:
    """Removes the oldest whole versions beyond `keep`, never the current one; returns their names."""
    current = _text(storage.join(root, CURRENT_FILE))
    old = [version for version in versions(root)[:-keep] if version != current]
    for version in old:
        directory = version_directory(root, version)
        storage.delete(storage.join(directory, MANIFEST_FILE))  # first: a reader refuses what is half removed
        storage.delete(directory)
    return old


def tidy(root: str) -> None:
    """Removes the versions that were begun a week ago and never finished."""
    before = time.time() - _ABANDONED_SECONDS
    for version in _numbered(root):
        directory = version_directory(root, version)
        _, since = _claimed(root, version)
        if 0 < since < before and not storage.exists(storage.join(directory, MANIFEST_FILE)):
            storage.delete(directory)
            storage.delete(storage.join(root, WORK_DIR, "shards", version))
