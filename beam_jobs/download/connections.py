"""Opens connections to permitted addresses only, and reuses one only where nothing is left over from its last answer.

aiohttp offers no public place for three of these things: to see what comes on a connection that waits, to count what an
answer spends on everything but its body, and to bound how many connections wait. So this file, and no other, reaches
into aiohttp's own attributes (tests/beam_jobs/download/test_connections.py fails first when they change).
"""

from __future__ import annotations

import asyncio
import functools
import select
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from beam_jobs.download import addresses
from beam_jobs.download.errors import FetchError, malformed
from beam_jobs.download.policy import FetchPolicy
from pipeline.images.policy import RejectCode

_ADDRESSES_TRIED = 3
_RESOLVED_SECONDS = 300
_MAX_IDLE = 64  # of all hosts together: a list may name thousands of them
# Bytes of an answer but not of its body: header, interim answers (1xx), chunk sizes with their extensions, trailers.
# A chunk of one byte, which is legal, takes 6.
_MAX_AROUND = 512 << 10
_MAX_AROUND_PER_BYTE = 16

_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


def _lost(when: str) -> FetchError:
    return FetchError(RejectCode.CONNECTION, f"the server closed the connection {when}", retry=True)


class _Connection(ResponseHandler):
    """Receives one connection's answers, and ends it when an answer goes on for ever around its body."""

    _asked = 0  # requests
    _received = 0  # bytes since the last one

    def set_response_params(self, **options: Any) -> None:
        self._asked += 1
        self._received = 0
        self._payload = None  # the last answer's
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        body = self._payload.total_bytes if self._payload else 0
        if self._received > _MAX_AROUND + (1 + _MAX_AROUND_PER_BYTE) * body:
            self._refuse(malformed(f"{self._received} bytes, of which the body has {body}"))
        elif _QUICK_ACK is not None and self.transport is not None and not (self._payload and self._payload.is_eof()):
            # A server that sends an answer in pieces, with Nagle's algorithm on, sends the next when the last one is
            # acknowledged, which the kernel puts off for 40 ms on a connection that has been used before.
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def connection_lost(self, exc: BaseException | None) -> None:
        # aiohttp asks once more after any loss. That is right where the server has closed a connection that it had kept
        # while the request was on its way; else it would double the attempts.
        if (self._payload is None or self._payload.is_eof()) and (self._received or self._asked == 1):
            self.set_exception(_lost("within the header of its answer" if self._received else "without an answer"))
        super().connection_lost(exc)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        # aiohttp leaves whoever reads the body waiting when it is the body that is malformed.
        if self._payload is not None and not self._payload.is_eof() and self._payload.exception() is None:
            self._payload.set_exception(exc)

    def is_clean(self) -> bool:
        """Says whether all that came has been the last answer's: nothing that could pass for the next one's beginning.

        aiohttp itself looks only when an answer ends, not when the connection is taken again.
        """
        if self.should_close or self.transport is None:
            return False
        try:
            if self._parser is not None and self._parser.feed_eof() is not None:
                return False  # part of another answer
        except Exception:
            return False
        poll = select.poll()  # unlike select.select, fit for file numbers above 1024
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def _refuse(self, error: FetchError) -> None:
        self.set_exception(error)
        self._parser = self._payload = None  # else the end of the connection would count as the error
        if self.transport is not None:
            self.transport.abort()  # aiohttp's own abort() forgets the error


class Connector(aiohttp.TCPConnector):
    """Pools checked connections.

    Every address is checked in `_open`, which aiohttp calls before each connect, for literal addresses and redirects
    too. Names are resolved by `_Resolver`, which leaves refused addresses out beforehand, for others to get their turn.
    """

    def __init__(self, policy: FetchPolicy, *, resolve: Callable[[str], list[str]]) -> None:
        """Needs a running event loop.

        Args:
          policy: for `per_host` and `allowed_networks`.
          resolve: host name → addresses, as `addresses.resolve`; called in threads.
        """
        super().__init__(
            resolver=_Resolver(resolve, policy.allowed_networks),
            socket_factory=self._open,
            ssl=ssl.create_default_context(),
            ttl_dns_cache=_RESOLVED_SECONDS,
            limit=0,
            limit_per_host=policy.per_host,
        )
        self._allowed = policy.allowed_networks
        self._factory: Callable[[], _Connection] = functools.partial(  # type: ignore[assignment]
            _Connection, loop=self._loop
        )
        self._idle: OrderedDict[Any, None] = OrderedDict()  # the longest idle one first

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            is_new = protocol not in self._idle
            self._idle.pop(protocol, None)
            if is_new or protocol.is_clean():
                return connection
            connection.close()

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if protocol.is_connected():
            self._idle[protocol] = None
            if len(self._idle) > _MAX_IDLE:
                self._idle.popitem(last=False)[0].close()

    def _open(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, place = info
        if why := addresses.refusal(place[0], self._allowed):
            # No OSError, after which aiohttp would try the next address.
            raise FetchError(RejectCode.PRIVATE_ADDRESS, f"{place[0]} is {why}")
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """Resolves names in threads that nobody waits for at the end: getaddrinfo knows no time limit."""

    def __init__(self, resolve: Callable[[str], list[str]], allowed: tuple[str, ...]) -> None:
        self._resolve = resolve
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Lists the host's first few permitted addresses. Raises OSError, or FetchError if there is none."""
        found = await self._ask(host)
        refusals = {address: addresses.refusal(address, self._allowed) for address in found}
        permitted = [address for address, why in refusals.items() if not why][:_ADDRESSES_TRIED]
        if not permitted:
            reasons = ", ".join(f"{address} is {why}" for address, why in refusals.items())
            raise FetchError(RejectCode.PRIVATE_ADDRESS, f"{host}: {reasons}")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in permitted
        ]

    async def _ask(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def tell(found: list[str], error: Exception | None) -> None:
            if answer.done():
                return  # nobody waits any more
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def ask() -> None:
            found: list[str] = []
            error: Exception | None = None
            try:
                found = self._resolve(host)
            except UnicodeError as refused:
                error = socket.gaierror(socket.EAI_NONAME, str(refused))
            except Exception as failed:
                error = failed
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, found, error)

        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        return await answer

    async def close(self) -> None:
        """Has nothing to close."""
