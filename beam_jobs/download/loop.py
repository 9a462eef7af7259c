"""Downloads a list of URLs into a store: a coroutine for each URL under way, on one event loop, with retries."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from beam_jobs.download import addresses
from beam_jobs.download.entry import Body, Download
from beam_jobs.download.errors import NETWORK_ERRORS, FetchError
from beam_jobs.download.fetch import Fetcher
from beam_jobs.download.policy import DownloadPolicy
from beam_jobs.download.schedule import DEAD_HOST_FAILURES, Schedule, Task
from beam_jobs.download.store import DownloadStore
from pipeline.images.policy import RejectCode

_WRITING_THREADS = 16  # a disk takes up to a millisecond to make a file, a bucket longer
_BATCH = 64
_BATCH_SECONDS, _SILENT_SECONDS = 0.1, 1.0


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


def download(
    urls: Sequence[str],
    store: DownloadStore,
    policy: DownloadPolicy,
    *,
    limit: Callable[[str], int] | None = None,
    failures: dict[str, int] | None = None,
    resolve: Callable[[str], list[str]] = addresses.resolve,
) -> Iterator[list[Download]]:
    """Downloads distinct URLs and yields what came of them, some at a time, in any order.

    Failures are results, not exceptions. Where nothing comes for a second, it yields nothing, for the caller to turn to
    other things. The event loop runs in the calling thread, as long as the next results are waited for.

    Args:
      urls: distinct.
      store: where the bytes go.
      policy: limits.
      limit: host → how many of its URLs may be under way at a time; None: as many as the policy says.
      failures: host → URLs in a row that failed for its silence; carries what is known of dead hosts from one list to
        the next.
      resolve: host name → addresses.

    Raises:
      OSError: the store cannot be written (disk full), or this machine has no more files to open.
    """
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_on_stray_error)
    try:
        run = _Run(
            Schedule(urls, limit=limit or (lambda _: policy.fetch.per_host), failures=failures),
            store,
            policy,
            Fetcher(policy.fetch, resolve=resolve),
        )
        loop.run_until_complete(run.open())
        try:
            while (batch := loop.run_until_complete(run.next_results())) is not None:
                yield batch
        finally:
            loop.run_until_complete(run.close())
    finally:
        loop.close()


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Passes over what a connection says when nobody waits for it any more; everything else is reported."""
    if not isinstance(context.get("exception"), NETWORK_ERRORS):
        loop.default_exception_handler(context)


class _Run:
    """Downloads one list."""

    def __init__(self, schedule: Schedule, store: DownloadStore, policy: DownloadPolicy, fetcher: Fetcher) -> None:
        self._store = store
        self._policy = policy
        self._fetcher = fetcher
        self._schedule = schedule
        self._threads = concurrent.futures.ThreadPoolExecutor(_WRITING_THREADS, thread_name_prefix="download-write")
        self._under_way: set[asyncio.Task[None]] = set()
        self._results: list[Download] = []
        self._error: BaseException | None = None

    async def open(self) -> None:
        self._changed = asyncio.Event()
        await self._fetcher.__aenter__()

    async def close(self) -> None:
        """Ends what is under way."""
        for coroutine in self._under_way:
            coroutine.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._fetcher.__aexit__()
        self._threads.shutdown()

    async def next_results(self) -> list[Download] | None:
        """Waits for some results, or a second, and returns them; None when all have been returned."""
        if not self._schedule.left and not self._results:
            return None
        start = time.monotonic()
        while self._schedule.left and len(self._results) < _BATCH:
            while len(self._under_way) < self._policy.at_once and (task := self._schedule.take()):
                coroutine = asyncio.create_task(self._attempt(task))
                self._under_way.add(coroutine)
                coroutine.add_done_callback(self._ended)
            until = start + (_BATCH_SECONDS if self._results else _SILENT_SECONDS)
            if time.monotonic() >= until:
                break
            await self._change(until)
            if self._error is not None:
                raise self._error
        results, self._results = self._results, []
        return results

    async def _change(self, until: float) -> None:
        """Waits for the end of a coroutine, for the next task that may start, or `until`."""
        self._changed.clear()
        starts = None if len(self._under_way) >= self._policy.at_once else self._schedule.next_at()
        moment = until if starts is None else min(starts, until)
        timer = asyncio.get_running_loop().call_at(moment, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def _ended(self, coroutine: asyncio.Task[None]) -> None:
        self._under_way.discard(coroutine)
        self._changed.set()
        if not coroutine.cancelled():
            self._error = self._error or coroutine.exception()

    async def _attempt(self, task: Task) -> None:
        """Makes one attempt, after which the task is finished or back in the schedule."""
        if self._schedule.host_is_dead(task):
            what = "got no answer, or were told to wait"
            detail = f"given up: {DEAD_HOST_FAILURES} URLs of {task.host} in a row {what}"
            self._fail(task, FetchError(RejectCode.CONNECTION, detail))
            return
        if not task.attempt:
            task.deadline = time.monotonic() + self._policy.total_seconds
        task.attempt += 1
        with Body() as body:
            try:
                final_url = await self._fetcher.fetch(task.url, sink=body, deadline=task.deadline)
            except FetchError as error:
                self._try_again_or_fail(task, error)
                return
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store.put, body)
        done = Download(url=task.url, sha256=body.sha256, size=body.size, final_url=final_url)
        self._finish(task, done, host_is_out=False)

    def _try_again_or_fail(self, task: Task, error: FetchError) -> None:
        wait = backoff(task.attempt, self._policy, retry_after=error.retry_after, chance=random.random())
        if error.retry_after is not None:
            self._schedule.pause(task, seconds=wait)
        in_time = time.monotonic() + wait < task.deadline
        if error.retry and task.attempt < self._policy.attempts and in_time:
            self._schedule.again(task, wait=wait)
            return
        self._fail(task, error)

    def _fail(self, task: Task, error: FetchError) -> None:
        tries = f" ({task.attempt} attempts)" if task.attempt > 1 else ""
        digest = self._policy.fetch.digest()
        failed = Download(url=task.url, code=error.code, detail=error.detail + tries, policy=digest)
        self._finish(task, failed, host_is_out=error.host_is_out)

    def _finish(self, task: Task, result: Download, *, host_is_out: bool) -> None:
        self._results.append(result)
        self._schedule.finish(task, host_is_out=host_is_out)
