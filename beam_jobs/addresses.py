"""Which network addresses a download may go to, and connections pinned to an address that passed that check.

A URL list is untrusted input: without this, one line of it makes a worker read a cloud's metadata service or a machine
of the private network (server-side request forgery). The check is made on the address, not on the name, and the
connection goes to the very address that was checked, so a name that changes its answer in between gains nothing.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries (RFC 6890 and its updates), written out: `is_global` differs between the patch
# releases of one Python version.
_REFUSED_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "cloud metadata",  # Azure's; the other clouds' lie in ranges refused anyway
    "169.254.0.0/16": "link-local or cloud metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "IETF protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_REFUSED_V6 = {
    "::1/128": "loopback",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
    "2001::/23": "IETF protocol assignments",  # Teredo among them, which hides an IPv4 address
    "2001:db8::/32": "documentation",
    "3fff::/20": "documentation",
}
_REFUSED = [(ipaddress.ip_network(net), why) for net, why in (_REFUSED_V4 | _REFUSED_V6).items()]
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

ANY_NETWORK = ("0.0.0.0/0", "::/0")
_BUFFER_BYTES = 1 << 16


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to `address` end at, for the forms that carry one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def refusal(address: str, allowed: Iterable[str] = ()) -> str | None:
    """Why a download must not connect to `address` ("loopback", "private", …), or None if it may.

    Args:
      address: IPv4 or IPv6 address as text, as the resolver gives it.
      allowed: networks (CIDR) that are let through although they are not public.
    """
    parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    embedded = _embedded_v4(parsed) if isinstance(parsed, ipaddress.IPv6Address) else None
    if embedded is not None:
        parsed = embedded
    for network in allowed:
        if parsed in ipaddress.ip_network(network):
            return None
    for refused, why in _REFUSED:
        if parsed in refused:
            return why
    if isinstance(parsed, ipaddress.IPv6Address) and parsed not in _GLOBAL_V6:
        return "not a global address"
    return None


def resolve(host: str, *, timeout: float) -> list[str]:
    """The host's addresses, in the resolver's order.

    Raises:
      socket.gaierror: the name has no address.
      TimeoutError: the resolver gave no answer within `timeout` seconds (getaddrinfo itself knows no limit).
    """
    answer: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        result = answer.get(timeout=max(timeout, 0.001))
    except queue.Empty:
        raise TimeoutError(f"no answer from the resolver for {host}") from None
    if isinstance(result, Exception):
        raise result
    return result


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until its owner's deadline; a plain socket timeout starts anew with every byte that drips in."""

    def __init__(self, owner: _DeadlineSocket) -> None:
        self._owner = owner
        self._raw = owner.socket.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._owner.arm()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineSocket:
    """As much of a socket as http.client uses, with one deadline over all operations."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self.socket = connected
        self.deadline = deadline

    def arm(self) -> None:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self.socket.settimeout(remaining)

    def sendall(self, data: bytes) -> None:
        self.arm()
        self.socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode
        return io.BufferedReader(_DeadlineReader(self), _BUFFER_BYTES)

    def close(self) -> None:
        self.socket.close()


class PinnedConnection(http.client.HTTPConnection):
    """An HTTP(S) connection to a given address; the name is used for `Host`, SNI and certificate verification only."""

    def __init__(self, host: str, port: int, *, address: str, tls: ssl.SSLContext | None, deadline: float) -> None:
        super().__init__(host, port)
        self.default_port = http.client.HTTPS_PORT if tls else http.client.HTTP_PORT  # whether `Host` names the port
        self._address = address
        self._tls = tls
        self._deadline = deadline

    def connect(self) -> None:
        timeout = max(self._deadline - time.monotonic(), 0.001)
        connected = socket.create_connection((self._address, self.port), timeout=timeout)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                connected.settimeout(max(self._deadline - time.monotonic(), 0.001))
                connected = self._tls.wrap_socket(connected, server_hostname=self.host)
        except BaseException:
            connected.close()
            raise
        self.sock = _DeadlineSocket(connected, self._deadline)

    def extend(self, deadline: float) -> None:
        """Sets the deadline (time.monotonic seconds) of the next exchange on a connection that is kept alive."""
        self._deadline = deadline
        if isinstance(self.sock, _DeadlineSocket):
            self.sock.deadline = deadline
