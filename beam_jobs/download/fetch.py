"""Makes one attempt to download one URL: addresses checked at every hop, redirects followed by hand, hard limits.

No proxy is used and no cookie, referrer or credential is sent. What the attempt may cost and where it may go is in
`FetchPolicy`; when to try again is the business of beam_jobs.download.loop.
"""

from __future__ import annotations

import dataclasses
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from beam_jobs.download import addresses, http1, robots
from beam_jobs.download.connections import IdleConnections, Origin, PinnedConnection
from beam_jobs.download.errors import FetchError, as_fetch_error, parse_retry_after
from beam_jobs.download.policy import FetchPolicy
from beam_jobs.download.urls import Target, parse_url
from pipeline.images.policy import RejectCode

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED_STATUSES = frozenset({408, 425, 429})  # and all of 5xx
_IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_ADDRESSES_TRIED = 3
_RESOLVED_SECONDS = 300.0


class Sink(Protocol):
    """Takes a body in pieces."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Takes the next piece, which does not change after the call."""


def _check_status(answer: http1.Answer) -> None:
    """Raises FetchError(HTTP_STATUS) unless the answer is a plain 200."""
    if answer.status != http1.OK:
        raise FetchError(
            RejectCode.HTTP_STATUS,
            f"{answer.status} {answer.reason}".strip(),
            retry=answer.status in _RETRIED_STATUSES or answer.status >= 500,
            retry_after=parse_retry_after(answer.joined("retry-after"), now=time.time()),
        )


class Fetcher:
    """Downloads URLs; for use by many threads. Keeps connections, resolved names and robots.txt files between calls.

    Args:
      policy: the limits.
      resolve: host name → addresses, as `addresses.resolve`.
    """

    def __init__(self, policy: FetchPolicy, *, resolve: Callable[..., list[str]] = addresses.resolve) -> None:
        self.policy = policy
        self._resolve = resolve
        self._tls = ssl.create_default_context()
        self._headers = (
            f"User-Agent: {policy.user_agent}\r\nAccept: image/*,*/*;q=0.5\r\nAccept-Encoding: identity\r\n".encode()
        )
        self._lock = threading.Lock()
        self._resolved: dict[str, tuple[float, list[str]]] = {}
        self._robots: dict[Origin, robots.RobotsFile] = {}
        self._robots_locks: dict[Origin, threading.Lock] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = {}
        self._idle = IdleConnections()

    def fetch(self, url: str, *, sink: Sink, deadline: float = float("inf")) -> str:
        """Writes the image that `url` leads to into `sink`; returns the URL after redirects.

        Args:
          url: http(s).
          sink: after a failure it may hold a part of the body.
          deadline: time.monotonic() value at which the attempt ends at the latest.

        Raises:
          FetchError: whatever goes wrong.
        """
        deadline = min(deadline, time.monotonic() + self.policy.attempt_seconds)

        def receive(answer: http1.Answer) -> None:
            self._check_image(answer)
            self._copy_body(answer, sink)

        try:
            return self._follow(url, receive, deadline=deadline, ask_robots=self.policy.obey_robots)
        except (OSError, FetchError) as error:
            raise as_fetch_error(error) from error

    def close(self) -> None:
        """Closes the connections that were kept alive."""
        self._idle.close()

    def _follow(self, url: str, receive: Callable[[http1.Answer], None], *, deadline: float, ask_robots: bool) -> str:
        """Follows redirects, hands the first other answer to `receive` and returns its URL."""
        for _ in range(self.policy.max_redirects + 1):
            target = parse_url(url)
            if ask_robots:
                self._check_robots(target, deadline)
            with self._exchange(target, deadline) as answer:
                if answer.status not in _REDIRECTS:
                    _check_status(answer)
                    receive(answer)
                    return target.url
                locations = answer.fields("location")
                if not locations or not locations[0]:
                    raise FetchError(RejectCode.HTTP_STATUS, f"{answer.status} without a Location")
                url = urllib.parse.urljoin(target.url, locations[0])
        raise FetchError(RejectCode.TOO_MANY_REDIRECTS, f"more than {self.policy.max_redirects}, the last one to {url}")

    @contextmanager
    def _exchange(self, target: Target, deadline: float) -> Iterator[http1.Answer]:
        """Yields a request's answer, its body still unread; at most `per_host` of them at a time for one host."""
        with self._lock:
            slot = self._slots.get(target.host)
            if slot is None:
                slot = self._slots[target.host] = threading.BoundedSemaphore(self.policy.per_host)
        if not slot.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimeoutError(f"no free connection to {target.host}")
        try:
            connection, answer = self._request(target, deadline)
            try:
                yield answer
            except FetchError:  # about what the answer says, which may have come whole all the same
                self._put_back(connection, answer)
                raise
            except BaseException:
                connection.close()
                raise
            self._put_back(connection, answer)
        finally:
            slot.release()

    def _put_back(self, connection: PinnedConnection, answer: http1.Answer) -> None:
        if answer.finish():
            self._idle.give(connection)
        else:
            connection.close()

    def _request(self, target: Target, deadline: float) -> tuple[PinnedConnection, http1.Answer]:
        if kept := self._idle.take(target.origin):
            kept.deadline = deadline
            try:
                return kept, kept.get(target, self._headers)
            except BaseException as error:
                kept.close()
                # The server may have closed it while the request was on its way, which is its right: a new one decides.
                if not isinstance(error, OSError) or kept.answered:
                    raise
        connection = self._connect(target, deadline)
        try:
            return connection, connection.get(target, self._headers)
        except BaseException:
            connection.close()
            raise

    def _connect(self, target: Target, deadline: float) -> PinnedConnection:
        """Connects to the first address that answers, out of the first few that may be connected to."""
        refusals, permitted = [], []
        for address in self._addresses(target.host, deadline):
            why = addresses.refusal(address, self.policy.allowed_networks)
            if why:
                refusals.append(f"{address} is {why}")
            else:
                permitted.append(address)
        if not permitted:
            raise FetchError(RejectCode.PRIVATE_ADDRESS, f"{target.host}: {', '.join(refusals)}")
        tls = self._tls if target.scheme == "https" else None
        errors: list[OSError] = []
        for number, address in enumerate(permitted[:_ADDRESSES_TRIED], start=1):
            # An address that does not answer must leave time for the next one.
            share = (deadline - time.monotonic()) / (min(len(permitted), _ADDRESSES_TRIED) - number + 1)
            try:
                connection = PinnedConnection(target, address=address, tls=tls, deadline=time.monotonic() + share)
            except OSError as error:
                errors.append(error)
                continue
            connection.deadline = deadline
            return connection
        raise errors[0]

    def _addresses(self, host: str, deadline: float) -> list[str]:
        now = time.monotonic()
        with self._lock:
            resolved_at, found = self._resolved.get(host, (0.0, []))
        if not found or now - resolved_at > _RESOLVED_SECONDS:
            found = self._resolve(host, timeout=deadline - now)
            with self._lock:
                self._resolved[host] = (now, found)
        return found

    def _check_image(self, answer: http1.Answer) -> None:
        if self.policy.obey_robots:
            tags = answer.fields("x-robots-tag")
            if directive := robots.forbids_ai(tags, product=self.policy.product):
                raise FetchError(RejectCode.NOAI, f"X-Robots-Tag: {directive}")
        kind = answer.joined("content-type").strip().lower()
        if kind and not kind.startswith(_IMAGE_TYPES):
            raise FetchError(RejectCode.CONTENT_TYPE, f"Content-Type: {kind[:100]}")
        encoding = answer.joined("content-encoding").strip().lower()
        if encoding not in ("", "identity"):  # we ask for none, and to decode one would open the door to bombs
            raise FetchError(RejectCode.CONTENT_TYPE, f"Content-Encoding: {encoding[:100]}")

    def _copy_body(self, answer: http1.Answer, sink: Sink) -> None:
        allowed = self.policy.max_bytes
        if answer.length is not None and answer.length > allowed:
            raise FetchError(RejectCode.TOO_MANY_BYTES, f"{answer.length} bytes announced, at most {allowed} allowed")
        received = 0
        while part := answer.read():
            received += len(part)
            if received > allowed:
                raise FetchError(RejectCode.TOO_MANY_BYTES, f"more than the {allowed} bytes allowed")
            sink.write(part)

    def _check_robots(self, target: Target, deadline: float) -> None:
        rules = self._robots.get(target.origin)
        if rules is None:
            with self._lock:
                lock = self._robots_locks.setdefault(target.origin, threading.Lock())
            if not lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise TimeoutError(f"no answer for robots.txt of {target.host}")
            try:
                rules = self._robots.get(target.origin)
                if rules is None:
                    rules = self._robots[target.origin] = self._fetch_robots(target, deadline)
            finally:
                lock.release()
        if not rules.allows(target.path):
            raise FetchError(RejectCode.ROBOTS, f"robots.txt of {target.host} forbids {target.path[:200]}")

    def _fetch_robots(self, target: Target, deadline: float) -> robots.RobotsFile:
        """Fetches robots.txt by RFC 9309, 2.3.1: no file (4xx) allows all; a server error says nothing: try again."""
        text = bytearray()

        def receive(answer: http1.Answer) -> None:
            while len(text) < robots.MAX_BYTES and (part := answer.read()):
                text.extend(part)

        url = dataclasses.replace(target, path="/robots.txt").url
        try:
            self._follow(url, receive, deadline=deadline, ask_robots=False)
        except (OSError, FetchError) as caught:
            error = as_fetch_error(caught)
            if error.code is RejectCode.HTTP_STATUS and error.retry:
                error.code = RejectCode.ROBOTS
            elif error.code in (RejectCode.HTTP_STATUS, RejectCode.TOO_MANY_REDIRECTS):
                return robots.RobotsFile("", product=self.policy.product)
            error.detail = f"robots.txt: {error.detail}"
            raise error from caught
        return robots.RobotsFile(text[: robots.MAX_BYTES].decode("utf-8", "replace"), product=self.policy.product)
