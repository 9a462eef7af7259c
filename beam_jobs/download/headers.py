"""Says which header fields a user may add to the requests for listed URLs, and which of them follow a redirect."""

from __future__ import annotations

import re
from collections.abc import Iterable

from beam_jobs.download.urls import Target

Header = tuple[str, str]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-authenticate"}
    | {"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_REFUSED = {
    "host": "it comes from the URL",
    "user-agent": "use --user_agent",
    "accept-encoding": "images are taken as they are",
    "range": "only whole images are of use",
} | dict.fromkeys(_HOP_BY_HOP, "it belongs to the connection")
# What says where one comes from and what one understands; everything else may be a secret between the user and a host.
_HARMLESS = frozenset({"accept", "accept-language", "referer"})


def parse_header(text: str) -> Header:
    """Takes `Name: value` apart. Raises ValueError; the value itself, which may be a secret, is in no error."""
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError("a header is written 'Name: value', and this one has no colon")
    return name.strip(), value.strip()


def check_headers(headers: Iterable[Header]) -> None:
    """Raises ValueError unless the fields can be sent as they are and leave the protocol to us."""
    seen = set()
    for name, value in headers:
        key = name.lower()
        if not _NAME.fullmatch(name):
            raise ValueError(f"header {name!r}: a name is letters, digits and hyphens")
        if not value or not value.isascii() or not value.isprintable():
            raise ValueError(f"header {name}: its value is one line of ASCII, and not empty")
        if why := _REFUSED.get(key) or ("only whole images are of use" if key.startswith("if-") else None):
            raise ValueError(f"header {name}: not to be set ({why})")
        if key in seen:
            raise ValueError(f"header {name}: given twice")
        seen.add(key)


def is_at_home(first: Target, target: Target) -> bool:
    """Says whether a redirect from `first` to `target` stays with the host: same origin, or its default port by TLS."""
    upgraded = ("https", first.host, 443)
    return target.origin == first.origin or (first.origin == ("http", first.host, 80) and target.origin == upgraded)


def headers_for(headers: Iterable[Header], *, at_home: bool) -> dict[str, str]:
    """Chooses the fields for one request: all for the listed host; elsewhere the harmless ones, as browsers do."""
    return {name: value for name, value in headers if at_home or name.lower() in _HARMLESS}
