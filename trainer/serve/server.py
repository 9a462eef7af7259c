"""Runs an application on a socket: ends slow clients, and ends itself when what is under way is answered."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.command import UsageError
from trainer.serve.limits import Limits

_KEEP_ALIVE = 75  # seconds; longer than what load balancers keep, who else send on a connection that has just ended
_BACKLOG = 2048
_ANSWER_SECONDS = 60.0  # that the last answers may take when the server ends


def bind(host: str, port: int) -> socket.socket:
    """Takes a port, 0 for any, without listening yet.

    Raises:
      UsageError: it cannot be had.
    """
    try:
        # With its protocol: asyncio turns Nagle's algorithm off for TCP only, which costs 40 ms an answer.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        # Two that have bound the same port, since both may reuse its address: only one can listen.
        taken.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"--host={host} --port={port}: {error.strerror or error}; give another, or --port=0 for any that is free"
        ) from error
    return taken


def url_of(taken: socket.socket) -> str:
    """Returns the URL that reaches a socket from this machine."""
    host, port = taken.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allow_many_files() -> None:
    """Raises the limit of open files to what the system allows: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))


def _protocol(seconds: float) -> type[H11Protocol]:
    """Makes HTTP/1.1 that waits so long for a request's head, and for a client that does not take its answer."""

    class Patient(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _taken: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._head, self._taken):
                if timer:
                    timer.cancel()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taken = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._taken:
                self._taken.cancel()

        def _await_head(self) -> None:
            under_way = self.cycle is not None and not self.cycle.response_complete
            if under_way and self._head:
                self._head.cancel()
                self._head = None
            elif not under_way and not self._head:
                self._head = self.loop.call_later(seconds, self.transport.abort)

    return Patient


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C, then lets requests under way be answered."""

    def __init__(
        self, app: ASGIApp, limits: Limits, *, ready: Callable[[], None], draining: Callable[[], None]
    ) -> None:
        """Makes a server.

        Args:
          app: the application.
          limits: of clients.
          ready: called when connections are accepted.
          draining: called when the server has been told to end.
        """
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http=_protocol(limits.seconds), ws="none", lifespan="off", log_config=None,
                log_level="error",
                access_log=False, server_header=False, timeout_keep_alive=_KEEP_ALIVE, backlog=_BACKLOG,
                timeout_graceful_shutdown=round(limits.seconds + _ANSWER_SECONDS),
            )
        )  # fmt: skip
        self._ready = ready
        self._draining = draining
        self._linger = limits.linger

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's, which ends the process by the signal that it got, not with 0."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain, self._linger)
        loop.add_signal_handler(signal.SIGINT, self._drain, 0.0)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # what is left to do takes no time

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets)
        self._ready()

    def _drain(self, linger: float) -> None:
        if self.should_exit and not linger:
            self.force_exit = True  # Ctrl-C again
        self._draining()
        asyncio.get_running_loop().call_later(linger, self._end)

    def _end(self) -> None:
        self.should_exit = True
