"""Keeps the dataset root's protocol without renames and locks, on a disk as in a store.

DATA/CURRENT                      the version in use, moved last and never backwards
DATA/versions/1.0.0/              a version; whole when it has its manifest.json, which is written last
DATA/.build/claims/1.0.0          the key of the build that a number belongs to, and since when; never overwritten
DATA/.build/findings/POLICY/      what killed runs found in images (known.py)
DATA/.build/runs/RUN/             what a run tells its launcher (settings.py)
DATA/.build/shards/1.0.0/         which of an unfinished version's shards are whole (write.py)
DATA/.build/current-lease         held by who moves the pointer
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
from pipeline.command import UsageError
from pipeline.format import lease, storage
from pipeline.format.manifest import CURRENT_FILE, MANIFEST_FILE, VERSIONS_DIR, Manifest

_CLAIMS = "claims"
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


def _claim_path(root: str, version: str) -> str:
    return storage.join(root, WORK_DIR, _CLAIMS, version)


def _numbers_in(folder: str) -> list[str]:
    try:
        entries = storage.list_folder(folder)
    except FileNotFoundError:
        return []
    return sorted((entry.name for entry in entries if _VERSION.match(entry.name)), key=_number)


def _numbered(root: str) -> list[str]:
    """Lists all versions, whole or not, oldest first. Raises UsageError where the root is a file."""
    try:
        return _numbers_in(storage.join(root, VERSIONS_DIR))
    except NotADirectoryError as error:
        raise UsageError(f"--output={root}: is a file, not a directory") from error


def _after(versions: Sequence[str]) -> str:
    """Names the version after all of these: by TFDS's semantics, other content is another major version."""
    return f"{max(map(_number, versions), default=0) + 1}.0.0"


def manifest_of(root: str, version: str) -> Manifest | None:
    """Reads a version's manifest; None where it has none or a damaged one: then it is no version."""
    try:
        return Manifest.from_json(storage.read_text(storage.join(version_directory(root, version), MANIFEST_FILE)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sound_manifest(root: str, version: str) -> Manifest | None:
    """Reads a version's manifest; None where there is none, or a shard that it lists is gone or cut short."""
    manifest = manifest_of(root, version)
    if manifest:
        sizes = {entry.name: entry.size for entry in storage.list_folder(version_directory(root, version))}
        if all(sizes.get(shard.name) == shard.bytes for shards in manifest.splits.values() for shard in shards):
            return manifest
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
        return storage.read(path).decode("utf-8", "replace").strip()  # of a damaged one: nothing that is a version
    except FileNotFoundError:
        return None


def next_version(root: str) -> str:
    """Names the version that a build would make now."""
    return _after(_numbered(root))


def published_as(root: str, key: str) -> str | None:
    """Finds the newest version, if this input and configuration gave it; else None.

    An older one does not count: the pointer never goes back, and who asks for it wants to train on it.
    """
    for version in versions(root)[-1:]:
        manifest = sound_manifest(root, version)
        alias = _text(storage.join(root, WORK_DIR, "same", key))
        if manifest and (version == alias or build_key(manifest.source_fingerprint, manifest.build) == key):
            return version
    return None


def _claimed(root: str, version: str) -> tuple[str, float]:
    """Reads whose a version's number is, and since when (seconds since 1970); ("", 0) where nothing says so."""
    key, _, since = (_text(_claim_path(root, version)) or "").partition(" ")
    try:
        return key, float(since)
    except ValueError:
        return key, 0.0


def claim(root: str, key: str) -> str:
    """Claims a version's number for a build, or finds the one that it has claimed before it was killed."""
    storage.make_folder(storage.join(root, WORK_DIR, _CLAIMS))
    while True:
        # All of it again after a lost race: the winner may be another run of the same build.
        claims = _numbers_in(storage.join(root, WORK_DIR, _CLAIMS))
        newest = _after(versions(root))  # or later: a lower number would stand behind the pointer
        for version in reversed(claims):
            if _claimed(root, version)[0] == key and _number(version) >= _number(newest):
                return version
        version = _after([*claims, *_numbered(root)])
        if storage.create(_claim_path(root, version), f"{key} {time.time():.0f}"):
            storage.make_folder(version_directory(root, version))
            return version


def remember(root: str, key: str, version: str) -> None:
    """Notes that a build came out equal to an existing version."""
    folder = storage.join(root, WORK_DIR, "same")
    storage.make_folder(folder)
    storage.write_atomically(storage.join(folder, key), version, shared=True, durable=True)


def set_current(root: str, version: str) -> str:
    """Moves the pointer to a whole version, never backwards; returns where it points."""
    if current := _current(root, at_least=version):
        return current
    work = storage.join(root, WORK_DIR)
    storage.make_folder(work)
    # What was read must still be true when it is written, and not all stores' libraries write on a condition.
    with lease.held(storage.join(work, "current-lease")):
        while not (current := _current(root, at_least=version)):
            storage.write_atomically(storage.join(root, CURRENT_FILE), f"{version}\n", shared=True, durable=True)
            # A build that came back after its lease was taken away may have written meanwhile.
            version = max(versions(root), key=_number, default=version)
    return current


def _current(root: str, *, at_least: str) -> str | None:
    """Reads where the pointer points; None where that is no version, or one before `at_least`."""
    current = _text(storage.join(root, CURRENT_FILE))
    valid = current is not None and _VERSION.match(current) and _number(current) >= _number(at_least)
    return current if valid else None


def prune(root: str, *, keep: int) -> Sequence[str]:
    """Removes the oldest whole versions beyond `keep`, never the current one; returns their names."""
    current = _text(storage.join(root, CURRENT_FILE))
    old = [version for version in versions(root)[:-keep] if version != current]
    for version in old:
        directory = version_directory(root, version)
        storage.delete(storage.join(directory, MANIFEST_FILE))  # first: a reader refuses what is half removed
        storage.delete(directory)
    return old


def forget(root: str, version: str) -> None:
    """Removes what the work on a version needed, which is whole now or gone."""
    storage.delete(_claim_path(root, version))
    storage.delete(storage.join(root, WORK_DIR, "shards", version))


def tidy(root: str) -> None:
    """Removes the versions that were begun a week ago and never finished."""
    before = time.time() - _ABANDONED_SECONDS
    for version in _numbers_in(storage.join(root, WORK_DIR, _CLAIMS)):
        _, since = _claimed(root, version)
        directory = version_directory(root, version)
        if storage.exists(storage.join(directory, MANIFEST_FILE)):
            forget(root, version)  # another build finished it, and was killed before it came to this
        elif 0 < since < before:
            storage.delete(directory)
            forget(root, version)
