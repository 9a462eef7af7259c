"""Downloads a list of URLs into a `DownloadStore`: those still to do, many at a time, with retries."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from beam_jobs.download.entry import Body, Download, Writer
from beam_jobs.download.errors import FetchError
from beam_jobs.download.fetch import Fetcher
from beam_jobs.download.policy import FetchPolicy
from beam_jobs.download.schedule import DEAD_HOST_FAILURES, Schedule, Task
from beam_jobs.download.store import DownloadStore
from pipeline.images.policy import RejectCode

_LOOKUP_THREADS = 16
_SILENCE = frozenset({RejectCode.DNS, RejectCode.CONNECTION, RejectCode.TIMEOUT, RejectCode.TLS})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadPolicy:
    """Sets how a list of URLs is downloaded.

    Attributes:
      fetch: the limits of one attempt.
      attempts: tries for one URL in all, as long as the failure is one that may pass.
      total_seconds: for all tries of one URL together, waiting included.
      backoff_seconds: upper end of the first random wait; doubles with every further one.
      max_wait_seconds: longest wait, a server's Retry-After included.
      threads: downloads at a time in one worker process.
      retry_failed: try again what failed in an earlier run.
    """

    fetch: FetchPolicy = dataclasses.field(default_factory=FetchPolicy)
    attempts: int = 4
    total_seconds: float = 120.0
    backoff_seconds: float = 1.0
    max_wait_seconds: float = 60.0
    threads: int = 32
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if min(self.attempts, self.threads, self.total_seconds) <= 0:
            raise ValueError(f"limits must be positive, got {self}")


def backoff(attempt: int, policy: DownloadPolicy, *, retry_after: float | None, chance: float) -> float:
    """Computes the seconds to wait after failed attempt number `attempt` (from 1): exponential with full jitter.

    Args:
      attempt: from 1.
      policy: its `backoff_seconds` and `max_wait_seconds`.
      retry_after: what the server asked for, or None; undercut by the cap only.
      chance: uniform in [0, 1).
    """
    wait = chance * policy.backoff_seconds * 2 ** (attempt - 1)
    return min(max(wait, retry_after or 0.0), policy.max_wait_seconds)


def pending(urls: Iterable[str], store: DownloadStore, policy: DownloadPolicy) -> list[str]:
    """Lists the distinct URLs still to be downloaded: neither stored, nor failed under this very `FetchPolicy`."""
    policy_digest = policy.fetch.digest()
    store.refresh()

    def is_pending(url: str) -> bool:
        found = store.find(url)
        if found is None:
            return True
        if found.code is None:
            return not store.has_blob(found)
        return policy.retry_failed or found.policy != policy_digest

    distinct = list(dict.fromkeys(urls))
    if not store.is_remote:
        return [url for url in distinct if is_pending(url)]
    with concurrent.futures.ThreadPoolExecutor(_LOOKUP_THREADS) as threads:  # a bucket answers in 50 ms
        return [url for url, todo in zip(distinct, threads.map(is_pending, distinct), strict=True) if todo]


def download(
    urls: Sequence[str], store: DownloadStore, policy: DownloadPolicy, *, fetcher: Fetcher
) -> Iterator[Download]:
    """Downloads distinct URLs and yields what came of each, in any order. Failures are results, not exceptions.

    Raises:
      OSError: the store cannot be written (disk full).
    """
    with store.writer() as writer:
        yield from _download(urls, writer, policy, fetcher)


def _download(urls: Sequence[str], writer: Writer, policy: DownloadPolicy, fetcher: Fetcher) -> Iterator[Download]:
    schedule = Schedule(urls, per_host=policy.fetch.per_host)
    results: queue.SimpleQueue[Download | BaseException] = queue.SimpleQueue()
    worker = _Worker(writer, policy, fetcher, schedule)

    def work() -> None:
        try:
            while task := schedule.take():
                if result := worker.attempt(task):
                    results.put(result)
        except BaseException as error:
            results.put(error)

    threads = [
        threading.Thread(target=work, name=f"download-{i}", daemon=True) for i in range(min(policy.threads, len(urls)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in urls:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        schedule.stop()
        for thread in threads:
            thread.join()


@dataclasses.dataclass(frozen=True)
class _Worker:
    writer: Writer
    policy: DownloadPolicy
    fetcher: Fetcher
    schedule: Schedule

    def attempt(self, task: Task) -> Download | None:
        """Makes one attempt; returns None if the task went back to the schedule for another one."""
        if self.schedule.host_is_dead(task):
            detail = f"given up: {DEAD_HOST_FAILURES} URLs in a row got no answer from {task.host}"
            return self._fail(task, RejectCode.CONNECTION, detail)
        if not task.attempt:
            task.deadline = time.monotonic() + self.policy.total_seconds
        task.attempt += 1
        with Body() as body:
            try:
                final_url = self.fetcher.fetch(task.url, sink=body, deadline=task.deadline)
            except FetchError as error:
                wait = backoff(task.attempt, self.policy, retry_after=error.retry_after, chance=random.random())
                in_time = time.monotonic() + wait < task.deadline
                if error.retry and task.attempt < self.policy.attempts and in_time:
                    self.schedule.again(task, wait=wait, pause_host=error.retry_after is not None)
                    return None
                tries = f" ({task.attempt} attempts)" if task.attempt > 1 else ""
                return self._fail(task, error.code, error.detail + tries)
            stored = self.writer.put(task.url, body, final_url=final_url)
        self.schedule.finish(task, host_is_silent=False)
        return stored

    def _fail(self, task: Task, code: RejectCode, detail: str) -> Download:
        failed = self.writer.put_failure(task.url, code=code, detail=detail, policy=self.policy.fetch.digest())
        self.schedule.finish(task, host_is_silent=code in _SILENCE)
        return failed
