"""Schedules downloads: at most so many of one host at a time, none too early, the hosts in turn."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Sequence

DEAD_HOST_FAILURES = 5
_MAX_FAILING = 100_000  # hosts whose failures are counted


def host_of(url: str) -> str:
    """Names the host that the limit of requests counts by; "" for a URL that cannot be parsed (it fails on its own)."""
    try:
        return (urllib.parse.urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


@dataclasses.dataclass(slots=True)
class Task:
    """Describes a URL to download, its attempts so far and the time.monotonic() value by which the last must end."""

    url: str
    host: str
    attempt: int = 0
    deadline: float = 0.0


@dataclasses.dataclass(slots=True, eq=False)
class _Host:
    name: str
    limit: int
    waiting: deque[Task] = dataclasses.field(default_factory=deque)
    active: int = 0
    paused_until: float = 0.0
    in_turn: bool = False  # stands in the schedule's line of hosts


class Schedule:
    """Hands out tasks to one event loop. A host that failed for several URLs in a row counts as dead."""

    def __init__(
        self, urls: Sequence[str], *, limit: Callable[[str], int], failures: dict[str, int] | None = None
    ) -> None:
        """Lines up the tasks.

        Args:
          urls: distinct.
          limit: host → tasks of it at a time.
          failures: host → URLs in a row that failed because the host was silent or not ready, in earlier schedules; is
            kept up to date for the next ones.
        """
        self.left = len(urls)
        self._failures = {} if failures is None else failures
        self._hosts: dict[str, _Host] = {}
        self._turn: deque[_Host] = deque()  # hosts of which a task may be able to start
        self._number = itertools.count()
        # (not before, tie-break, host, task to try again or None), a heap.
        self._later: list[tuple[float, int, _Host, Task | None]] = []
        for url in urls:
            name = host_of(url)
            if name not in self._hosts:
                self._hosts[name] = _Host(name, limit=limit(name))
            self._hosts[name].waiting.append(Task(url, name))
        for host in self._hosts.values():
            self._line_up(host)

    def take(self) -> Task | None:
        """Returns a task that may start now, or None if there is none before `next_at` or the end of another one."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, host, again = heapq.heappop(self._later)
            if again is not None:
                host.waiting.appendleft(again)  # its time runs out, that of the others has not begun
            self._line_up(host)
        while self._turn:
            host = self._turn.popleft()
            host.in_turn = False
            if not host.waiting:
                continue
            if not self._is_dead(host.name):  # else nothing is asked of it any more
                if host.active >= host.limit:
                    continue  # until one of them ends
                if host.paused_until > now:
                    self._push(host.paused_until, host, None)
                    continue
            host.active += 1
            self._line_up(host)
            return host.waiting.popleft()
        return None

    def next_at(self) -> float | None:
        """Returns the time.monotonic() value from which on a task may start although no other one ends, or None."""
        return self._later[0][0] if self._later else None

    def again(self, task: Task, *, wait: float) -> None:
        """Puts a task back for `wait` seconds."""
        host = self._hosts[task.host]
        self._push(time.monotonic() + wait, host, task)
        self._release(host)

    def pause(self, task: Task, *, seconds: float) -> None:
        """Lets all tasks of the task's host wait, because the host has asked for it."""
        host = self._hosts[task.host]
        host.paused_until = max(host.paused_until, time.monotonic() + seconds)

    def finish(self, task: Task, *, host_is_out: bool) -> None:
        """Counts a task as done, whatever came of it."""
        host = self._hosts[task.host]
        failures = self._failures.pop(task.host, 0)
        if host_is_out:
            self._failures[task.host] = failures + 1
            if len(self._failures) > _MAX_FAILING:
                del self._failures[next(iter(self._failures))]
        self.left -= 1
        self._release(host)

    def host_is_dead(self, task: Task) -> bool:
        """Says whether the rest of the host's URLs would only waste time."""
        return self._is_dead(task.host)

    def _is_dead(self, name: str) -> bool:
        return self._failures.get(name, 0) >= DEAD_HOST_FAILURES

    def _push(self, not_before: float, host: _Host, task: Task | None) -> None:
        heapq.heappush(self._later, (not_before, next(self._number), host, task))

    def _release(self, host: _Host) -> None:
        host.active -= 1
        self._line_up(host)

    def _line_up(self, host: _Host) -> None:
        if not host.in_turn:
            host.in_turn = True
            self._turn.append(host)
