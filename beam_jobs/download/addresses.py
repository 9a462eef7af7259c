"""Decides which network addresses a download may go to.

A URL list is untrusted input: without this, one line of it makes a worker read a cloud's metadata service or a machine
of the private network (server-side request forgery). The check is made on the address, not on the name, and the
connection goes to the very address that was checked, so a name that changes its answer in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Finds the IPv4 address that packets to `address` end at, for the forms that carry one; else None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def refusal(address: str, allowed: Iterable[str] = ()) -> str | None:
    """Says why a download must not connect to `address` ("loopback", "private", …), or returns None if it may.

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


def resolve(host: str) -> list[str]:
    """Looks up the host's addresses, in the resolver's order; takes as long as the resolver does.

    Raises:
      socket.gaierror: the name has no address.
      UnicodeError: it is no name.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
