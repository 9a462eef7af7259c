"""Makes one attempt to download one URL: addresses checked at every hop, redirects followed by hand, hard limits.

No proxy is used, and no cookie, referrer or credential is sent but what the user asks for. What the attempt may cost
and where it may go is in `FetchPolicy`; when to try again is the business of loop.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Protocol

import aiohttp
import yarl

from beam_jobs.download import addresses, robots
from beam_jobs.download.connections import Connector
from beam_jobs.download.content import ImageGate, Unpacker
from beam_jobs.download.errors import NETWORK_ERRORS, FetchError, as_fetch_error, malformed, parse_retry_after
from beam_jobs.download.headers import headers_for, is_at_home
from beam_jobs.download.policy import FetchPolicy
from beam_jobs.download.urls import Target, parse_url
from pipeline.images.policy import RejectCode

_PARTIAL = 206
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED_STATUSES = frozenset({408, 425, 429})  # and all of 5xx
_BUSY = frozenset({429, 503})  # said of the host, not of one of its URLs
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
_MAX_LINE = 1 << 16

_Receive = Callable[[aiohttp.ClientResponse], Awaitable[None]]


class Sink(Protocol):
    """Takes a body in pieces."""

    def write(self, data: bytes, /) -> object:
        """Takes the next piece."""


def _is_part(content_range: str) -> bool:
    """Says whether an answer announces less than the whole, which nobody has asked for; without a word it is whole."""
    if not (found := _CONTENT_RANGE.fullmatch(content_range)):
        return False
    first, last, total = found.groups()
    return int(first) > 0 or (total != "*" and int(last) + 1 < int(total))


def _check_status(answer: aiohttp.ClientResponse) -> None:
    """Raises FetchError unless the answer is a success, 2xx."""
    status = answer.status
    if status < 200:
        raise malformed(f"{status} without a question for another protocol")
    if status >= 300:
        retry = status in _RETRIED_STATUSES or status >= 500
        wait = parse_retry_after(answer.headers.get("Retry-After"), now=time.time()) if retry else None
        raise FetchError(
            RejectCode.HTTP_STATUS,
            _status_line(answer),
            retry=retry,
            retry_after=wait,
            host_is_out=status in _BUSY or bool(wait),  # all its URLs have to wait
        )
    content_range = _joined(answer, "Content-Range") if status == _PARTIAL else ""
    if _is_part(content_range):
        raise FetchError(RejectCode.CUT_BODY, f"{_status_line(answer)}: {content_range}", retry=True)


def _status_line(answer: aiohttp.ClientResponse) -> str:
    return f"{answer.status} {answer.reason or ''}".strip()


def _joined(answer: aiohttp.ClientResponse, name: str) -> str:
    return ", ".join(answer.headers.getall(name, [])).strip()


def _next_url(target: Target, answer: aiohttp.ClientResponse) -> str:
    """Reads where a redirect leads. Raises FetchError."""
    location = answer.headers.get("Location")
    if not location:
        raise FetchError(RejectCode.HTTP_STATUS, f"{answer.status} without a Location")
    try:
        return urllib.parse.urljoin(target.url, location)
    except ValueError as error:
        raise FetchError(RejectCode.BAD_URL, f"{error}: Location {location[:200]!r}") from error


class Fetcher:
    """Downloads URLs, many at a time on one event loop. Keeps connections, names and robots.txt files between calls.

    An asynchronous context manager.
    """

    def __init__(self, policy: FetchPolicy, *, resolve: Callable[[str], list[str]] = addresses.resolve) -> None:
        """Args: `policy`, the limits; `resolve`, host name → addresses, as `addresses.resolve`."""
        self.policy = policy
        self._resolve = resolve
        self._robots = robots.RobotsCache()

    async def __aenter__(self) -> Fetcher:
        self._session = aiohttp.ClientSession(
            connector=Connector(self.policy, resolve=self._resolve),
            headers={
                "User-Agent": self.policy.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # one deadline is over all, see `fetch`
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def fetch(self, url: str, *, sink: Sink, deadline: float = float("inf")) -> str:
        """Writes the image that `url` leads to into `sink`; returns the URL after redirects.

        Args:
          url: http(s).
          sink: after a failure it may hold a part of the body.
          deadline: time.monotonic() value at which the attempt ends at the latest.

        Raises:
          FetchError: whatever goes wrong out there.
          OSError: this machine is at fault.
        """
        loop = asyncio.get_running_loop()
        seconds = min(deadline - time.monotonic(), self.policy.attempt_seconds)

        async def receive(answer: aiohttp.ClientResponse) -> None:
            self._check_noai(answer)
            await self._copy_image(answer, sink)

        try:
            async with asyncio.timeout_at(loop.time() + seconds):
                return await self._follow(url, receive)
        except NETWORK_ERRORS as error:
            raise as_fetch_error(error) from error

    async def _follow(self, url: str, receive: _Receive, *, for_robots: bool = False) -> str:
        """Follows redirects, hands the first other answer to `receive` and returns its URL."""
        listed, at_home = None, True
        for _ in range(self.policy.max_redirects + 1):
            target = parse_url(url)
            listed = listed or target
            at_home = at_home and is_at_home(listed, target)
            headers = {} if for_robots else headers_for(self.policy.headers, at_home=at_home)
            if self.policy.obey_robots and not for_robots:
                await self._check_robots(target)
            try:
                address = yarl.URL(target.url, encoded=True)
            except ValueError as error:
                raise FetchError(RejectCode.BAD_URL, f"{error}: {url[:200]!r}") from error
            # Leaving the context closes the connection unless the answer has come whole.
            async with self._session.get(address, headers=headers, allow_redirects=False) as answer:
                if answer.status not in _REDIRECTS:
                    _check_status(answer)
                    await receive(answer)
                    return target.url
                url = _next_url(target, answer)
        raise FetchError(RejectCode.TOO_MANY_REDIRECTS, f"more than {self.policy.max_redirects}, the last one to {url}")

    def _check_noai(self, answer: aiohttp.ClientResponse) -> None:
        if self.policy.obey_robots:
            tags = answer.headers.getall("X-Robots-Tag", [])
            if directive := robots.forbids_ai(tags, product=self.policy.product):
                raise FetchError(RejectCode.NOAI, f"X-Robots-Tag: {directive}")

    async def _copy_image(self, answer: aiohttp.ClientResponse, sink: Sink) -> None:
        allowed = self.policy.max_bytes
        coding = _joined(answer, "Transfer-Encoding").lower()
        if coding not in ("", "chunked"):
            raise malformed(f"Transfer-Encoding: {coding}")
        if answer.content_length is not None and answer.content_length > allowed:
            announced = f"{answer.content_length} bytes announced"
            raise FetchError(RejectCode.TOO_MANY_BYTES, f"{announced}, at most {allowed} allowed")
        gate = ImageGate(_joined(answer, "Content-Type"), sink.write, max_bytes=allowed)
        unpacker = Unpacker(_joined(answer, "Content-Encoding"), gate.feed)
        received = 0
        async for part in answer.content.iter_any():
            received += len(part)
            if received > allowed:
                raise FetchError(RejectCode.TOO_MANY_BYTES, f"more than the {allowed} bytes allowed")
            unpacker.feed(part)
        unpacker.close()
        gate.close()
        if not gate.size:
            raise FetchError(RejectCode.HTTP_STATUS, f"{_status_line(answer)}, and the body is empty")

    async def _check_robots(self, target: Target) -> None:
        site = self._robots.site(target.origin)
        if site.rules is None:
            async with site.lock:  # one asks, the others wait for what it learns
                if site.rules is None:
                    site.rules = await self._fetch_robots(target)
                    self._robots.trim()
        if refusal := site.rules.refusal(target.path):
            raise FetchError(RejectCode.ROBOTS, f"robots.txt of {target.host} {refusal}")

    async def _fetch_robots(self, target: Target) -> robots.RobotsFile:
        """Fetches robots.txt by RFC 9309, 2.3.1: no file (4xx) allows all; a server error says nothing: try again."""
        data = bytearray()

        def write(part: bytes) -> None:
            if len(data) <= robots.MAX_BYTES:
                data.extend(part)

        async def receive(answer: aiohttp.ClientResponse) -> None:
            unpacker = Unpacker(_joined(answer, "Content-Encoding"), write)
            async for part in answer.content.iter_any():
                unpacker.feed(part)
                if len(data) > robots.MAX_BYTES:
                    return
            unpacker.close()

        product = self.policy.product
        try:
            await self._follow(dataclasses.replace(target, path="/robots.txt").url, receive, for_robots=True)
        except NETWORK_ERRORS as caught:
            error = as_fetch_error(caught)
            code, out = error.code, error.host_is_out
            if code is RejectCode.HTTP_STATUS and error.retry:
                code, out = RejectCode.ROBOTS, True
            elif code in (RejectCode.HTTP_STATUS, RejectCode.TOO_MANY_REDIRECTS):
                return robots.RobotsFile(b"", product=product)
            detail = f"robots.txt: {error.detail}"
            raise FetchError(
                code, detail, retry=error.retry, retry_after=error.retry_after, host_is_out=out
            ) from caught
        # In a thread, for the deadline and the other downloads to go on meanwhile.
        return await asyncio.to_thread(robots.RobotsFile, bytes(data), product=product)
