"""Schedules downloads: at most so many of one host at a time, none too early, no thread waiting for one host."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Sequence

DEAD_HOST_FAILURES = 5


def host_of(url: str) -> str:
    """Names the host that the limit of requests counts by; "" for a URL that cannot be parsed (it fails on its own)."""
    try:
        return (urllib.parse.urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


@dataclasses.dataclass
class Task:
    """Describes a URL to download, its attempts so far and the time.monotonic() value by which the last must end."""

    url: str
    attempt: int = 0
    deadline: float = 0.0

    def __post_init__(self) -> None:
        self.host = host_of(self.url)


@dataclasses.dataclass
class _Host:
    active: int = 0
    waiting: deque[Task] = dataclasses.field(default_factory=deque)
    paused_until: float = 0.0
    silent: int = 0  # URLs in a row that failed because the host gave no answer


class Schedule:
    """Hands out tasks to threads. A host that was silent for several URLs in a row counts as dead."""

    def __init__(self, urls: Sequence[str], *, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self._number = itertools.count()
        # (not before, tie-break, task), a heap; tasks that wait for their host's turn are not in it.
        self._ready = [(0.0, next(self._number), Task(url)) for url in urls]
        self._left = len(urls)
        self._changed = threading.Condition()

    def take(self) -> Task | None:
        """Waits until a task may start and returns it, or None when all are finished or `stop` was called."""
        with self._changed:
            while self._left > 0:
                now = time.monotonic()
                if not self._ready or self._ready[0][0] > now:
                    self._changed.wait(self._ready[0][0] - now if self._ready else None)
                    continue
                _, _, task = heapq.heappop(self._ready)
                host = self._hosts.setdefault(task.host, _Host())
                if host.active >= self._per_host:
                    host.waiting.append(task)
                elif host.paused_until > now:
                    self._push(task, host.paused_until)
                else:
                    host.active += 1
                    if self._ready:
                        self._changed.notify()  # each wakes one more, instead of all waking for each
                    return task
            return None

    def again(self, task: Task, *, wait: float, pause_host: bool) -> None:
        """Puts a task back for `wait` seconds; with `pause_host`, which asked for it, its host's others wait too."""
        with self._changed:
            not_before = time.monotonic() + wait
            host = self._hosts[task.host]
            if pause_host:
                host.paused_until = max(host.paused_until, not_before)
            self._push(task, not_before)
            self._release(host)

    def finish(self, task: Task, *, host_is_silent: bool) -> None:
        """Counts a task as done, whatever came of it."""
        with self._changed:
            host = self._hosts[task.host]
            host.silent = host.silent + 1 if host_is_silent else 0
            self._left -= 1
            self._release(host)
            if self._left <= 0:
                self._changed.notify_all()

    def host_is_dead(self, task: Task) -> bool:
        """Says whether the rest of the host's URLs would only waste time."""
        with self._changed:
            return self._hosts[task.host].silent >= DEAD_HOST_FAILURES

    def stop(self) -> None:
        """Lets every thread end after its present task."""
        with self._changed:
            self._left = 0
            self._changed.notify_all()

    def _push(self, task: Task, not_before: float) -> None:
        heapq.heappush(self._ready, (not_before, next(self._number), task))

    def _release(self, host: _Host) -> None:
        host.active -= 1
        if host.waiting:
            self._push(host.waiting.popleft(), 0.0)
        # Nobody is woken: the thread that calls this takes the next task itself, and wakes one more if there are more.
