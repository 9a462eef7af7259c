"""Finds out whether a published version is what its manifest says, and takes a damaged one out of use (`--repair`)."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import sys

from beam_jobs import root
from pipeline.format import storage
from pipeline.format.manifest import MANIFEST_FILE, Manifest, Shard
from pipeline.progress import ImageCount

_CHUNK = 4 << 20


def _problem(directory: str, shard: Shard) -> str:
    """Says what is wrong with a shard, or nothing."""
    digest = hashlib.sha256()
    try:
        with storage.open_file(storage.join(directory, shard.name)) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"{shard.name}: {error.strerror or error}"
    return "" if digest.hexdigest() == shard.sha256 else f"{shard.name}: its sha256 is not the manifest's"


def _problems(directory: str, manifest: Manifest | None) -> list[str]:
    """Lists what is wrong with a version, while it shows how far it has come."""
    if manifest is None:
        return ["its manifest is damaged"]
    shards = [shard for several in manifest.splits.values() for shard in several]
    total, done, found = sum(shard.examples for shard in shards), 0, []
    display = ImageCount("checking", sys.stderr)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for shard, problem in zip(shards, pool.map(functools.partial(_problem, directory), shards), strict=True):
            done += shard.examples
            display.show(done, total)
            if problem:
                found.append(problem)
    display.close()
    return found


def take_out_damaged(output: str) -> str:
    """Reads all of the newest version; removes its manifest if it is damaged, so that nobody reads it any more.

    Returns:
      what is wrong with it, for a person; "" where it is sound, or there is none.

    Raises:
      OSError: the store cannot be read or written.
    """
    for version in root.versions(output)[-1:]:
        directory = root.version_directory(output, version)
        if found := _problems(directory, root.manifest_of(output, version)):
            storage.delete(storage.join(directory, MANIFEST_FILE))
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            return f"{directory}: {found[0]}{more}"
    return ""
