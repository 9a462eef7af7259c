"""Pins connections to a checked address, puts one deadline over all waits, and keeps them for the next request."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import OrderedDict

from beam_jobs.download.http1 import Answer, Reader
from beam_jobs.download.urls import Target

Origin = tuple[str, str, int]

_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
_MAX_IDLE = 64  # of all hosts together: a list may name thousands of them


class PinnedConnection:
    """Connects by HTTP(S) to a given address; the name is used for `Host`, SNI and certificate verification only.

    A plain socket timeout starts anew with every byte that drips in, so it is set from the deadline before each wait.

    Attributes:
      origin: scheme, host and port that it leads to.
      deadline: time.monotonic() value at which any wait ends with a TimeoutError.
      answered: whether a byte has come since the last request was begun.
    """

    def __init__(self, target: Target, *, address: str, tls: ssl.SSLContext | None, deadline: float) -> None:
        """Connects, by `deadline` (a time.monotonic() value) at the latest. Raises OSError."""
        self.origin = target.origin
        self.deadline = deadline
        self.answered = False
        connected = socket.create_connection((address, target.port), timeout=self._remaining())
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                connected.settimeout(self._remaining())
                connected = tls.wrap_socket(connected, server_hostname=target.host)
        except BaseException:
            connected.close()
            raise
        self._socket = connected
        self._reader = Reader(self)

    def get(self, target: Target, headers: bytes) -> Answer:
        """Asks for `target`, which must be of this connection's origin, and reads the head of the answer.

        Args:
          target: what to ask for.
          headers: field lines, each with its end.

        Raises:
          FetchError: what the server answers is no HTTP.
          OSError: of the connection.
        """
        assert target.origin == self.origin
        self.answered = False
        head = f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("ascii") + headers + b"\r\n"
        self._socket.settimeout(self._remaining())
        self._socket.sendall(head)
        if _QUICK_ACK is not None:
            # A server that sends head and body apart, with Nagle's algorithm on, sends the body when the head is
            # acknowledged, which the kernel puts off for 40 ms on a connection that has been used before.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        return Answer(self._reader)

    def receive_into(self, buffer: memoryview) -> int:
        """Implements `http1.Wire`."""
        self._socket.settimeout(self._remaining())
        received = self._socket.recv_into(buffer)
        self.answered = self.answered or received > 0
        return received

    def is_quiet(self) -> bool:
        """Says whether nothing has come since the last answer: neither the connection's end nor unrequested bytes."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        poll = select.poll()  # unlike select.select, fit for file numbers above 1024
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def _remaining(self) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        return remaining


class IdleConnections:
    """Keeps connections that wait for another request to their origin; for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[PinnedConnection, Origin] = OrderedDict()  # the longest idle one first
        self._by_origin: dict[Origin, list[PinnedConnection]] = {}

    def take(self, origin: Origin) -> PinnedConnection | None:
        """Returns the connection to the origin that was used last, of those that the server has left open, or None."""
        while True:
            with self._lock:
                if not (several := self._by_origin.get(origin)):
                    return None
                connection = several.pop()
                del self._idle[connection]
            if connection.is_quiet():
                return connection
            connection.close()

    def give(self, connection: PinnedConnection) -> None:
        """Keeps a connection, and closes the longest idle one if there are too many."""
        with self._lock:
            self._idle[connection] = connection.origin
            self._by_origin.setdefault(connection.origin, []).append(connection)
            if len(self._idle) <= _MAX_IDLE:
                return
            oldest, origin = self._idle.popitem(last=False)
            self._by_origin[origin].remove(oldest)
        oldest.close()

    def close(self) -> None:
        """Closes all connections that wait."""
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            self._by_origin.clear()
