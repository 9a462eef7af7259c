"""Finds out who listens at an address. Free of TensorFlow, which would wait there for minutes, or without end."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

_SECONDS_BETWEEN_TRIES = 0.2


def split_address(address: str) -> tuple[str, int]:
    """Splits host:port, an IPv6 host in brackets. Raises ValueError where it is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f'"{address}" is not host:port')
    return host.strip("[]"), int(port)


def connect(address: str, *, seconds: float) -> socket.socket:
    """Connects to host:port. Raises OSError where nobody listens within `seconds`."""
    return socket.create_connection(split_address(address), timeout=seconds)


def answers(address: str, *, seconds: float = 2.0) -> bool:
    """Says whether somebody listens at host:port."""
    try:
        connect(address, seconds=seconds).close()
    except OSError:
        return False
    return True


def wait_for_all(addresses: Sequence[str], *, seconds: float) -> list[str]:
    """Waits until each address has answered once; returns those that have not within `seconds`.

    Args:
      addresses: host:port of each.
      seconds: how long to wait for all together.
    """
    deadline = time.monotonic() + seconds
    missing = list(addresses)
    while (missing := [address for address in missing if not answers(address)]) and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return missing
