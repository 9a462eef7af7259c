"""Starts a process that forks decoders: what they import is loaded once, its memory is shared, and each takes a moment.

The process is `decoder_child`, which imports and waits. It ends when its parent does, and its children with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

LENGTH = struct.Struct("<Q")  # before every message, bytes
NUMBER = struct.Struct("<i")  # what is told of a forked process: its id, and in the end its exit status
COMMAND = (sys.executable, "-m", "pipeline.images.decoder_child")
_PACKAGES = str(pathlib.Path(__file__).parents[2])


def child_environment() -> dict[str, str]:
    """Makes the environment of a lean child: it finds these packages, from wherever its parent has them."""
    paths = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
    # A thread a core for linear algebra would take much of the address space.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


class Forked:
    """Is a process that a zygote forks: who reads requests and writes replies. For one thread at a time."""

    def __init__(self, parent: subprocess.Popen[bytes], requests: int, replies: int, status: int) -> None:
        self.requests: BinaryIO = os.fdopen(requests, "wb")
        self.replies: BinaryIO = os.fdopen(replies, "rb")
        self._status: BinaryIO = os.fdopen(status, "rb", buffering=0)
        self._parent = parent
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int | None:
        """Tells the process' id, once it is there; None if the zygote has ended before."""
        if self._pid is None:
            self._pid = self._told()
        return self._pid

    def wait(self) -> int:
        """Waits for the process to end; returns its exit status, the negative number of a signal that ended it."""
        if self._code is None:
            code = self._told() if self.pid else None
            self._code = self._parent.wait() if code is None else code  # they end together
        return self._code

    def end(self) -> int:
        """Closes what the process waits for, which ends it, and returns its exit status."""
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.replies.close()
        code = self.wait()
        self._status.close()
        return code

    def _told(self) -> int | None:
        told = self._status.read(NUMBER.size)
        return NUMBER.unpack(told)[0] if told else None


class Zygote:
    """Holds the process that forks; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Starts the process, if there is none, without waiting for it."""
        with self._lock:
            self._started()

    def fork(self, settings: Mapping[str, Any], area: int) -> Forked:
        """Has a decoder forked, without waiting for it.

        Args:
          settings: of the decoder, as JSON has them.
          area: descriptor of the `Area` that it shares.
        """
        (their_requests, requests), (replies, their_replies), (status, their_status) = (os.pipe() for _ in range(3))
        theirs = (their_requests, their_replies, their_status)
        try:
            with self._lock:
                try:
                    parent = self._send(json.dumps(settings).encode(), (*theirs, area))
                except (BrokenPipeError, ConnectionResetError):  # it has just ended: another one is started
                    parent = self._send(json.dumps(settings).encode(), (*theirs, area))
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Forked(parent, requests, replies, status)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _send(self, message: bytes, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        """Sends a message to the process, and returns that: it may be a new one."""
        process, control = self._started()
        socket.send_fds(control, [LENGTH.pack(len(message))], descriptors)
        control.sendall(message)
        return process

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None or self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*COMMAND, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # decoders remark on files there
                    pass_fds=[theirs.fileno()],
                    env=child_environment(),
                )
        return self._process, self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()  # what it waits for to end
            self._control = None
        if self._process is not None:
            self._process.wait()
            self._process = None
