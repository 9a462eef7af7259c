"""Parses URLs as downloads need them: taken apart, in ASCII, fit to be sent."""

from __future__ import annotations

import dataclasses
import functools
import re
import urllib.parse

from beam_jobs.download.errors import FetchError
from pipeline.images.policy import RejectCode

_PORTS = {"http": 80, "https": 443}
_MAX_LENGTH = 16_384  # characters; servers take 8,000 or so
_UNFIT_IN_HOST = re.compile(r"[^!-~]|[/?#@\\]")


@dataclasses.dataclass(frozen=True)
class Target:
    """Represents a URL taken apart: ASCII host name, explicit port, percent-encoded path with query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return (self.scheme, self.host, self.port)

    @property
    def authority(self) -> str:
        """Makes the value of the `Host` field: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@functools.lru_cache(maxsize=1024)
def _ascii_host(host: str) -> str:
    """Encodes a host name in ASCII. Raises ValueError (UnicodeError where IDNA refuses the name)."""
    host = host if ":" in host else host.encode("idna").decode()
    if unfit := _UNFIT_IN_HOST.search(host):
        raise ValueError(f"{unfit[0]!r} in the host name")
    return host


def _quote(text: str, *, safe: str) -> str:
    """Percent-encodes what is not ASCII as UTF-8; bytes of a Location that are no UTF-8 as they are, like browsers."""
    return urllib.parse.quote(text, safe=safe, errors="surrogateescape")


def parse_url(url: str) -> Target:
    """Takes an http(s) URL apart; the fragment is dropped. Raises FetchError(BAD_URL)."""
    try:
        if len(url) > _MAX_LENGTH:
            raise ValueError(f"{len(url)} characters, at most {_MAX_LENGTH} are sent")
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in _PORTS:
            raise ValueError(f'scheme "{parts.scheme[:20]}" is neither http nor https')
        if parts.username is not None or parts.password is not None:
            raise ValueError("user names and passwords in URLs are not supported")
        if not parts.hostname:
            raise ValueError("no host name")
        host = _ascii_host(parts.hostname)
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if not port:
            raise ValueError("port 0")
        path = _quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = _quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
        if (length := len(path) + len(query)) > _MAX_LENGTH:
            raise ValueError(f"{length} characters once encoded, at most {_MAX_LENGTH} are sent")
    except ValueError as error:
        raise FetchError(RejectCode.BAD_URL, f"{error}: {url[:200]!r}") from error
    return Target(parts.scheme, host, port, f"{path}?{query}" if query else path)
