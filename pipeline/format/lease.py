"""Lets one of several processes at a time do something, on any machine that sees the same disk or store."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Iterator

from pipeline.format import storage

_PAUSE = 0.2  # seconds between two looks, about


@contextlib.contextmanager
def held(path: str, *, seconds: float = 20.0) -> Iterator[None]:
    """Holds a lease while the block runs: whoever else asks for it waits.

    It is an object that only one can create. One that stays the same for `seconds`, by the clock of who waits, is of a
    process that was killed, and is taken away: the block must take less, and even then must do no harm beside another,
    because stores cannot delete an object on condition that nobody has renewed it in between.

    Args:
      path: names the lease; its folder exists, if it is local.
      seconds: how long it is believed to be held.

    Raises:
      OSError: it cannot be written.
    """
    token = uuid.uuid4().hex.encode()
    seen, since = b"", 0.0
    while not storage.create(path, token):
        holder = _holder(path)
        if holder == token:  # it was created, but the answer was lost
            break
        if holder != seen:
            seen, since = holder, time.monotonic()
        elif time.monotonic() - since > seconds:
            storage.delete(path)
            continue
        time.sleep(random.uniform(0.5, 1.5) * _PAUSE)
    try:
        yield
    finally:
        if _holder(path) == token:
            storage.delete(path)


def _holder(path: str) -> bytes:
    try:
        return storage.read(path)
    except FileNotFoundError:
        return b""
