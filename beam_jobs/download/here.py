"""Downloads in this process: everything for a local build, and a Beam worker's part of it.

One process receives as many images as a gigabit line carries, so a local build does not wait for Beam to be loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from beam_jobs import progress, stopping
from beam_jobs.download.loop import download
from beam_jobs.download.policy import DownloadPolicy
from beam_jobs.download.store import DownloadStore
from beam_jobs.errors import BuildError, command_error
from pipeline.command import ExitCode

STAGE = "downloading"
_WORKERS = 2  # that this one process stands for


def download_counted(
    urls: Sequence[str], store: DownloadStore, policy: DownloadPolicy, counter: progress.Counter
) -> None:
    """Downloads distinct URLs into the store. Raises BuildError if it cannot be written."""
    try:
        for _ in download(urls, store, policy):
            counter.add()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BuildError(ExitCode.INTERNAL, f"{error.filename or store.root}: {reason}") from error
    finally:
        counter.flush()


def run(urls: Sequence[str], store: DownloadStore, policy: DownloadPolicy, *, counters: str) -> None:
    """Downloads distinct URLs for a local build, and shows the progress.

    Args:
      urls: distinct; see `store.pending`.
      store: where the bytes and the failures go.
      policy: limits.
      counters: directory for the progress.

    Raises:
      CommandError: the store cannot be written.
    """
    policy = dataclasses.replace(policy, at_once=_WORKERS * policy.at_once)
    with progress.shown(counters, stages=(STAGE,), total=len(urls)), stopping.at_once():
        try:
            download_counted(urls, store, policy, progress.Counter(counters, STAGE))
        except BuildError as error:
            raise command_error(error) or error from error
