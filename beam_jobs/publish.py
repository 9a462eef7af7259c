"""Keeps the dataset root's file protocol: one build at a time, versions that appear whole, a pointer that moves last.

DATA/CURRENT                    the version in use
DATA/versions/1.0.0/            a published version, never changed
DATA/.build/lock                held by the running build; the kernel frees it when the process dies
DATA/.build/inspected/KEY/7f    the inspection cache (inspection.py)
DATA/.build/KEY/version/        a version being put together; KEY names input and configuration, so that the same
                                build finds its finished shards after a kill and another build never does
DATA/.build/same_content.json   KEY → version: builds that came out equal to an existing version
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.command import TryAgainError
from pipeline.format.manifest import CURRENT_FILE, MANIFEST_FILE, VERSIONS_DIR, current_version
from pipeline.format.storage import write_atomically

WORK_DIR = ".build"
_ALIASES = "same_content.json"
_VERSION = re.compile(r"^(\d+)\.0\.0$")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
    """Holds the root's lock; a process that dies, however it dies, lets go of it.

    Raises:
      TryAgainError: another build holds it.
    """
    work = os.path.join(root, WORK_DIR)
    os.makedirs(work, exist_ok=True)
    with open(os.path.join(work, "lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise TryAgainError(
                f"{root}: {holder} is building into it; wait until it has ended and run the same command again"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _aliases(root: str) -> dict[str, str]:
    try:
        with open(os.path.join(root, WORK_DIR, _ALIASES), encoding="utf-8") as file:
            data = json.load(file)
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        return {}


def published_as(root: str, key: str) -> str | None:
    """Finds the newest whole version that this input and configuration gave, or None."""
    alias = _aliases(root).get(key)
    for version in reversed(versions(root)):
        if version == alias or build_key(*_origin(root, version)) == key:
            return version
    return None


def _origin(root: str, version: str) -> tuple[str, Mapping[str, Any]]:
    with open(os.path.join(root, VERSIONS_DIR, version, MANIFEST_FILE), encoding="utf-8") as file:
        data = json.load(file)
    return data.get("source_fingerprint", ""), data.get("build", {})


def build_key(source_fingerprint: str, build: Mapping[str, Any]) -> str:
    """Names an input and a configuration: equal keys, equal datasets."""
    return hashlib.sha256(json.dumps([source_fingerprint, build], sort_keys=True).encode()).hexdigest()[:32]


def remember(root: str, key: str, version: str) -> None:
    """Notes that a build came out equal to an existing version; forgets versions that are gone."""
    there = set(versions(root))
    known = {k: v for k, v in _aliases(root).items() if v in there}
    text = json.dumps({**known, key: version}, indent=1, sort_keys=True)
    write_atomically(os.path.join(root, WORK_DIR, _ALIASES), text, shared=True, durable=True)


def versions(root: str) -> list[str]:
    """Lists the whole versions, oldest first."""
    try:
        names = [name for name in os.listdir(os.path.join(root, VERSIONS_DIR)) if _VERSION.match(name)]
    except FileNotFoundError:
        return []
    whole = [name for name in names if os.path.exists(os.path.join(root, VERSIONS_DIR, name, MANIFEST_FILE))]
    return sorted(whole, key=lambda name: int(name.partition(".")[0]))


def next_version(root: str) -> str:
    """Names the next version: by TFDS's semantics, other content is another major version."""
    existing = versions(root)
    return f"{int(existing[-1].partition('.')[0]) + 1 if existing else 1}.0.0"


def publish(root: str, staging: str, version: str) -> None:
    """Makes a whole staging directory the current version.

    A kill between the two steps leaves a version that nothing points to; the next build of the same input finds it
    (`published_as`) and points there.
    """
    parent = os.path.join(root, VERSIONS_DIR)
    os.makedirs(parent, exist_ok=True)
    _sync_directory(staging)
    os.rename(staging, os.path.join(parent, version))
    _sync_directory(parent)
    set_current(root, version)


def set_current(root: str, version: str) -> None:
    """Moves the pointer, atomically and durably."""
    write_atomically(os.path.join(root, CURRENT_FILE), f"{version}\n", shared=True, durable=True)
    _sync_directory(root)


def prune(root: str, *, keep: int) -> list[str]:
    """Removes the oldest versions beyond `keep`, never the current one; returns their names."""
    current = current_version(root)
    old = [version for version in versions(root)[:-keep] if version != current]
    for version in old:
        path = os.path.join(root, VERSIONS_DIR, version)
        os.unlink(os.path.join(path, MANIFEST_FILE))  # first: a reader refuses what is half removed
        shutil.rmtree(path)
    return old


def clean(root: str, *, keep: set[str]) -> None:
    """Removes what other, abandoned builds left in the work directory, except caches, downloads and `keep`."""
    work = os.path.join(root, WORK_DIR)
    for name in os.listdir(work):
        path = os.path.join(work, name)
        if os.path.isdir(path) and name not in {"inspected", "downloads", "unpacked"} | keep:
            shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(directory: str) -> None:
    """Removes the temporary files in which a build was killed in the middle of writing; for who holds the lock."""
    for name in os.listdir(directory):
        if name.endswith(".tmp"):
            os.unlink(os.path.join(directory, name))
