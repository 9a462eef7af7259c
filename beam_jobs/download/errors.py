"""Reports all that can go wrong in a download by one exception, with a code to count by and whether to try again."""

from __future__ import annotations

import email.utils
import errno
import socket
import ssl

from pipeline.images.policy import Refused, RejectCode


class FetchError(Refused):
    """Reports that an attempt to download failed.

    Attributes:
      code: the reason.
      detail: what exactly happened, for a person.
      retry: whether another attempt may end differently.
      retry_after: seconds that the server asked us to wait, or None.
    """

    def __init__(self, code: RejectCode, detail: str, *, retry: bool = False, retry_after: float | None = None) -> None:
        super().__init__(code, detail)
        self.retry = retry
        self.retry_after = retry_after


_LOCAL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})

# The first type that fits decides: sub-classes stand before their bases.
_MEANINGS: list[tuple[type[OSError], RejectCode, bool]] = [
    (socket.gaierror, RejectCode.DNS, False),
    (TimeoutError, RejectCode.TIMEOUT, True),
    (ssl.SSLError, RejectCode.TLS, False),
    (OSError, RejectCode.CONNECTION, True),
]


def as_fetch_error(error: OSError | FetchError) -> FetchError:
    """Translates an exception of the network stack into a `FetchError`.

    Raises: `error` itself where this machine is at fault (disk full, too many open files).
    """
    if isinstance(error, FetchError):
        return error
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
        raise error
    detail = str(getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error)
    for kind, code, retry in _MEANINGS:
        if isinstance(error, kind):
            # EAI_AGAIN: the resolver itself could not ask, which says nothing about the name.
            not_asked = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            return FetchError(code, detail or type(error).__name__, retry=retry or not_asked)
    raise AssertionError(f"not an error of the network: {error!r}") from error


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Computes the seconds to wait by a `Retry-After` header, seconds or an HTTP date; None where it says neither.

    Args:
      value: the header.
      now: the present, in seconds since 1970 (UTC).
    """
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None
