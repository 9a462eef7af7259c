"""One attempt to download one URL: addresses checked at every hop, redirects followed by hand, hard limits.

No proxy is used and no cookie, referrer or credential is sent. What the attempt may cost and where it may go is in
`FetchPolicy`; when to try again is the business of beam_jobs.downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import queue
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from beam_jobs import addresses, robots
from beam_jobs.http_errors import FetchError, as_fetch_error, check_status
from beam_jobs.images import RejectCode

PRODUCT = "tpu-retraining-image-builder"
USER_AGENT = f"{PRODUCT}/0.1 (downloads listed images to build a training set; obeys robots.txt and noai)"

_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_ADDRESSES_TRIED = 3
_RESOLVED_SECONDS = 300.0
_IDLE_CONNECTIONS = 8  # kept alive per origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """The limits of one attempt.

    Attributes:
      user_agent: the `User-Agent` header; its part before "/" is the name that robots.txt may address.
      max_bytes: largest body.
      attempt_seconds: for all of one attempt, redirects included.
      max_redirects: hops after the first answer.
      per_host: requests under way to one host at a time.
      allowed_networks: networks (CIDR) that may be connected to although they are not public.
      obey_robots: respect robots.txt and `X-Robots-Tag: noai, noimageai`.
    """

    user_agent: str = USER_AGENT
    max_bytes: int = 64 << 20
    attempt_seconds: float = 30.0
    max_redirects: int = 5
    per_host: int = 4
    allowed_networks: tuple[str, ...] = ()
    obey_robots: bool = True

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.attempt_seconds, self.per_host) <= 0 or self.max_redirects < 0:
            raise ValueError(f"limits must be positive, got {self}")
        if not self.user_agent.isascii() or not self.user_agent.isprintable() or not self.product:
            raise ValueError(f"a User-Agent is plain ASCII, name/version (contact), got {self.user_agent!r}")

    @property
    def product(self) -> str:
        return self.user_agent.partition("/")[0].strip()

    def digest(self) -> str:
        """Changes with the policy: a failure is remembered only for the policy under which it happened."""
        limits = dataclasses.asdict(self)
        del limits["per_host"]  # changes nothing about what fails
        text = json.dumps(limits, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Target:
    """A URL taken apart: ASCII host name, explicit port, percent-encoded path with query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return (self.scheme, self.host, self.port)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = http.client.HTTPS_PORT if self.scheme == "https" else http.client.HTTP_PORT
        return f"{self.scheme}://{host}{'' if self.port == default else f':{self.port}'}{self.path}"


def parse_url(url: str) -> Target:
    """Takes an http(s) URL apart; the fragment is dropped. Raises FetchError(BAD_URL)."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in ("http", "https"):
            raise ValueError(f'scheme "{parts.scheme}" is neither http nor https')
        if parts.username is not None or parts.password is not None:
            raise ValueError("user names and passwords in URLs are not supported")
        if not parts.hostname:
            raise ValueError("no host name")
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        port = parts.port or (http.client.HTTPS_PORT if parts.scheme == "https" else http.client.HTTP_PORT)
    except ValueError as error:  # UnicodeError of a host name that IDNA refuses is one, too
        raise FetchError(RejectCode.BAD_URL, f"{url[:200]!r}: {error}") from error
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return Target(parts.scheme, host, port, f"{path}?{query}" if query else path)


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
        self._lock = threading.Lock()
        self._resolved: dict[str, tuple[float, list[str]]] = {}
        self._robots: dict[tuple[str, str, int], robots.RobotsFile] = {}
        self._robots_locks: dict[tuple[str, str, int], threading.Lock] = {}
        self._idle: dict[tuple[str, str, int], queue.LifoQueue[addresses.PinnedConnection]] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = {}

    def fetch(self, url: str, *, sink: IO[bytes], deadline: float = float("inf")) -> str:
        """Writes the image that `url` leads to into `sink`; returns the URL after redirects.

        Args:
          url: http(s).
          sink: binary file; after a failure it may hold a part of the body.
          deadline: time.monotonic() value at which the attempt ends at the latest.

        Raises:
          FetchError: whatever goes wrong.
        """
        deadline = min(deadline, time.monotonic() + self.policy.attempt_seconds)

        def receive(response: http.client.HTTPResponse) -> None:
            self._check_image(response)
            self._copy_body(response, sink)

        try:
            return self._follow(url, receive, deadline=deadline, ask_robots=self.policy.obey_robots)
        except (OSError, http.client.HTTPException, FetchError) as error:
            raise as_fetch_error(error) from error

    def close(self) -> None:
        """Closes the connections that were kept alive."""
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait().close()

    def _follow(
        self, url: str, receive: Callable[[http.client.HTTPResponse], None], *, deadline: float, ask_robots: bool
    ) -> str:
        """Hands the first answer that is no redirect to `receive`; returns its URL."""
        for _ in range(self.policy.max_redirects + 1):
            target = parse_url(url)
            if ask_robots:
                self._check_robots(target, deadline)
            with self._exchange(target, deadline) as response:
                if response.status not in _REDIRECTS:
                    check_status(response)
                    receive(response)
                    return target.url
                location = response.getheader("Location")
                if not location:
                    raise FetchError(RejectCode.HTTP_STATUS, f"{response.status} without a Location")
                url = urllib.parse.urljoin(target.url, location)
        raise FetchError(RejectCode.TOO_MANY_REDIRECTS, f"more than {self.policy.max_redirects}, the last one to {url}")

    @contextmanager
    def _exchange(self, target: Target, deadline: float) -> Iterator[http.client.HTTPResponse]:
        """A request's answer, its body still unread; at most `per_host` of them at a time for one host."""
        with self._lock:
            slot = self._slots.setdefault(target.host, threading.BoundedSemaphore(self.policy.per_host))
            idle = self._idle.setdefault(target.origin, queue.LifoQueue())
        if not slot.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimeoutError(f"no free connection to {target.host}")
        try:
            connection, response = self._request(target, idle, deadline)
            try:
                yield response
            except BaseException:
                connection.close()
                raise
            # Only a connection whose answer was read to its end can carry another request.
            if response.isclosed() and connection.sock is not None and idle.qsize() < _IDLE_CONNECTIONS:
                idle.put(connection)
            else:
                connection.close()
        finally:
            slot.release()

    def _request(
        self, target: Target, idle: queue.LifoQueue[addresses.PinnedConnection], deadline: float
    ) -> tuple[addresses.PinnedConnection, http.client.HTTPResponse]:
        headers = {"User-Agent": self.policy.user_agent, "Accept": "image/*,*/*;q=0.5"}
        while not idle.empty():
            try:
                kept = idle.get_nowait()
            except queue.Empty:
                break
            kept.extend(deadline)
            try:
                kept.request("GET", target.path, headers=headers)
                return kept, kept.getresponse()
            except TimeoutError:
                kept.close()
                raise
            except (OSError, http.client.HTTPException):
                kept.close()  # the server had closed it meanwhile, which is its right: a new one decides
        connection = self._connect(target, deadline)
        try:
            connection.request("GET", target.path, headers=headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _connect(self, target: Target, deadline: float) -> addresses.PinnedConnection:
        """A new connection to the first of the host's addresses that answers, out of those that may be connected to."""
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
            connection = addresses.PinnedConnection(
                target.host, target.port, address=address, tls=tls, deadline=time.monotonic() + share
            )
            try:
                connection.connect()
            except OSError as error:
                errors.append(error)
                continue
            connection.extend(deadline)
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

    def _check_image(self, response: http.client.HTTPResponse) -> None:
        if self.policy.obey_robots:
            tags = response.headers.get_all("X-Robots-Tag", [])
            if directive := robots.forbids_ai(tags, product=self.policy.product):
                raise FetchError(RejectCode.NOAI, f"X-Robots-Tag: {directive}")
        kind = (response.getheader("Content-Type") or "").strip().lower()
        if kind and not kind.startswith(_IMAGE_TYPES):
            raise FetchError(RejectCode.CONTENT_TYPE, f"Content-Type: {kind[:100]}")
        encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        if encoding != "identity":  # we ask for no encoding, and to decode one would open the door to bombs
            raise FetchError(RejectCode.CONTENT_TYPE, f"Content-Encoding: {encoding[:100]}")

    def _copy_body(self, response: http.client.HTTPResponse, sink: IO[bytes]) -> None:
        declared, allowed = response.length, self.policy.max_bytes
        if declared is not None and declared > allowed:
            raise FetchError(RejectCode.TOO_MANY_BYTES, f"{declared} bytes announced, at most {allowed} allowed")
        received = 0
        while chunk := response.read(_CHUNK_BYTES):
            received += len(chunk)
            if received > allowed:
                raise FetchError(RejectCode.TOO_MANY_BYTES, f"more than the {allowed} bytes allowed")
            sink.write(chunk)
        if declared is not None and received < declared:  # http.client is silent about it when it reads by chunks
            raise FetchError(RejectCode.CUT_BODY, f"{received} of {declared} bytes", retry=True)

    def _check_robots(self, target: Target, deadline: float) -> None:
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
        """RFC 9309, 2.3.1: no file (4xx) allows everything; a server error says nothing, so it is tried again."""
        texts = []
        url = dataclasses.replace(target, path="/robots.txt").url
        try:
            self._follow(
                url,
                lambda response: texts.append(response.read(robots.MAX_BYTES).decode("utf-8", "replace")),
                deadline=deadline,
                ask_robots=False,
            )
        except (OSError, http.client.HTTPException, FetchError) as caught:
            error = as_fetch_error(caught)
            if error.code is RejectCode.HTTP_STATUS and error.retry:
                error.code = RejectCode.ROBOTS
            elif error.code in (RejectCode.HTTP_STATUS, RejectCode.TOO_MANY_REDIRECTS):
                return robots.RobotsFile("", product=self.policy.product)
            error.detail = f"robots.txt: {error.detail}"
            raise error from caught
        return robots.RobotsFile(texts[0], product=self.policy.product)
