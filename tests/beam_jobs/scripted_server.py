"""Runs a real server on loopback that sends, byte by byte, just what a test says, and fetches from it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import struct
import threading
import time

from beam_jobs.download import addresses
from beam_jobs.download.fetch import Fetcher
from beam_jobs.download.policy import FetchPolicy

BODY = bytes(range(256)) * 300
HANG_UP = "hang up"


class Endless(bytes):
    """Makes the server send these bytes again and again, until the client hangs up."""


RESET = "reset"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Scripted:
    """Plays one script on each connection: for each request it has a list of what to send or do."""

    def __init__(self, *scripts):
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests = []  # (number of the connection, request)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        for number, script in enumerate(self._scripts):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._play, args=(connection, number, script), daemon=True))
            self._threads[-1].start()

    def _play(self, connection, number, script):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as incoming:
            for actions in script:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    line = incoming.readline()
                    if not line:
                        return
                    request += line
                self.requests.append((number, request))
                for action in actions:
                    if action == HANG_UP:
                        return
                    if action == RESET:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    if isinstance(action, Endless):
                        while True:
                            connection.sendall(action * (65536 // len(action)))
                    if isinstance(action, float):
                        time.sleep(action)
                    else:
                        connection.sendall(action)
            incoming.read()  # until the client hangs up

    def close(self):
        self._listener.close()


@contextlib.contextmanager
def fetching(resolve=addresses.resolve, **changes):
    limits = {"allowed_networks": ("127.0.0.1/32",), "attempt_seconds": 3, "obey_robots": False} | changes
    loop = asyncio.new_event_loop()
    fetcher = Fetcher(FetchPolicy(**limits), resolve=resolve)

    def fetch(url, sink=None):
        sink = sink or io.BytesIO()
        loop.run_until_complete(fetcher.fetch(url, sink=sink))
        return sink.getvalue() if isinstance(sink, io.BytesIO) else None

    loop.run_until_complete(fetcher.__aenter__())
    try:
        yield fetch
    finally:
        loop.run_until_complete(fetcher.__aexit__())
        loop.close()
