"""Downloads by Beam, where it has workers: in a pipeline of its own that runs before the listing.

URLs travel in files, one a partition, and the bytes stay in the store: nothing goes through a shuffle. All URLs of one
host lie in one partition, so the limit of requests to a host holds over all workers without their knowing of each other
(for hosts that only redirects lead to, it holds per worker).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence

import apache_beam as beam

from beam_jobs import progress
from beam_jobs.download.here import STAGE, download_counted
from beam_jobs.download.policy import DownloadPolicy
from beam_jobs.download.schedule import host_of
from beam_jobs.download.store import DownloadStore, pending

_PARTITIONS = 64  # bounds how many workers can download at once


def write_partitions(urls: Iterable[str], directory: str) -> list[str]:
    """Writes the URLs into files, one host's all into the same one; returns the files' paths."""
    partitions: dict[int, list[str]] = {}
    for url in urls:
        digest = hashlib.blake2b(host_of(url).encode(), digest_size=4).digest()
        partitions.setdefault(int.from_bytes(digest, "big") % _PARTITIONS, []).append(url)
    os.makedirs(directory, exist_ok=True)
    paths = []
    for number, members in sorted(partitions.items()):
        paths.append(os.path.join(directory, f"urls-{number:02d}.json"))
        with open(paths[-1], "w", encoding="utf-8") as file:
            json.dump(members, file)
    return paths


class _DownloadPartition(beam.DoFn):
    """Downloads a partition's URLs, leaving blobs and failures in the store. Path of the partition's file → nothing."""

    def __init__(self, store: DownloadStore, policy: DownloadPolicy, counters: str) -> None:
        self._store = store
        self._policy = policy
        self._counters = counters

    def setup(self) -> None:
        self._progress = progress.Counter(self._counters, STAGE)

    def process(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            urls = json.load(file)
        # A bundle may run twice: what it stored the first time is not fetched again.
        todo = pending(urls, self._store, dataclasses.replace(self._policy, retry_failed=True))
        self._progress.add(len(urls) - len(todo))
        download_counted(todo, self._store, self._policy, self._progress)


class DownloadAll(beam.PTransform):
    """Downloads the URLs in files that `write_partitions` wrote; the root of a pipeline.

    Args:
      paths: of the files.
      store: where the bytes go.
      policy: limits.
      counters: directory for the workers' counters.
    """

    def __init__(self, paths: list[str], store: DownloadStore, policy: DownloadPolicy, *, counters: str) -> None:
        super().__init__()
        self._paths = paths
        self._stage = _DownloadPartition(store, policy, counters)

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        return root | "Hosts" >> beam.Create(self._paths) | beam.Reshuffle() | "Download" >> beam.ParDo(self._stage)


def run(
    urls: Sequence[str],
    store: DownloadStore,
    policy: DownloadPolicy,
    *,
    work: str,
    run_pipeline: Callable[[Callable[[beam.Pipeline], None]], None],
) -> None:
    """Downloads the URLs with Beam.

    Args:
      urls: distinct; see `store.pending`.
      store: where the bytes and the failures go.
      policy: limits.
      work: directory for the URLs and the progress; emptied by the caller.
      run_pipeline: runs the pipeline that its argument adds steps to, on the runner that the user asked for.

    Raises:
      CommandError: the store cannot be written.
    """
    paths = write_partitions(urls, os.path.join(work, "urls"))
    counters = os.path.join(work, "progress")
    stage = DownloadAll(paths, store, policy, counters=counters)
    with progress.shown(counters, stages=(STAGE,), total=len(urls)):
        run_pipeline(lambda pipeline: pipeline | "Urls" >> stage)
