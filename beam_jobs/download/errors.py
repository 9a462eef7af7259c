"""Reports all that can go wrong in a download by one exception, with a code to count by and whether to try again."""

from __future__ import annotations

import datetime
import email.utils
import errno
import os
import socket
import ssl

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError

from pipeline.images.policy import Refused, RejectCode

_SILENCE = frozenset({RejectCode.DNS, RejectCode.CONNECTION, RejectCode.TIMEOUT, RejectCode.TLS})
_DETAIL_LENGTH = 300


class FetchError(Refused):
    """Reports that an attempt to download failed.

    Attributes:
      code: the reason.
      detail: what exactly happened, for a person.
      retry: whether another attempt may end differently.
      retry_after: seconds that the server asked us to wait, or None.
      host_is_out: whether the host as a whole seems to be at fault: silent, or not ready to answer anything.
    """

    def __init__(
        self,
        code: RejectCode,
        detail: str,
        *,
        retry: bool = False,
        retry_after: float | None = None,
        host_is_out: bool = False,
    ) -> None:
        super().__init__(code, _one_line(detail))
        self.retry = retry
        self.retry_after = retry_after
        self.host_is_out = host_is_out or code in _SILENCE


def _one_line(text: str) -> str:
    """Makes words that a server chose fit for a line, a terminal and UTF-8."""
    line = " ".join(text.split())[:_DETAIL_LENGTH]
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def malformed(detail: str) -> FetchError:
    """Makes the error for an answer that breaks the protocol."""
    return FetchError(RejectCode.CONNECTION, f"malformed HTTP answer: {detail}", retry=True)


_LOCAL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})

# The first type that fits decides: sub-classes stand before their bases.
_MEANINGS: list[tuple[type[OSError], RejectCode, bool]] = [
    (socket.gaierror, RejectCode.DNS, False),
    (TimeoutError, RejectCode.TIMEOUT, True),
    (ssl.SSLError, RejectCode.TLS, False),
    (OSError, RejectCode.CONNECTION, True),
]

# What `as_fetch_error` translates.
NETWORK_ERRORS = (OSError, aiohttp.ClientError, HttpProcessingError, FetchError)


def _of_client(error: Exception) -> FetchError:
    """Translates an exception that only aiohttp has."""
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError(RejectCode.BAD_URL, str(error))
    if isinstance(error, aiohttp.ClientPayloadError):
        cause = error.__cause__
        detail = "the connection closed before the last chunk"
        if isinstance(cause, ContentLengthError):
            detail = cause.message
        return FetchError(RejectCode.CUT_BODY, detail, retry=True)
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return malformed(error.message)
    return FetchError(RejectCode.CONNECTION, str(error).strip() or type(error).__name__, retry=True)


def as_fetch_error(error: Exception) -> FetchError:
    """Translates an exception of the network stack, one of `NETWORK_ERRORS`, into a `FetchError`.

    Raises: OSError where this machine is at fault (disk full, too many open files).
    """
    if isinstance(error, FetchError):
        return error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if not isinstance(error, OSError):
        return _of_client(error)
    if error.errno in _LOCAL_ERRORS:
        raise error
    detail = str(getattr(error, "verify_message", "") or getattr(error, "strerror", "") or error)
    code, retry = next((code, retry) for kind, code, retry in _MEANINGS if isinstance(error, kind))
    if code is RejectCode.CONNECTION and error.errno:
        detail = os.strerror(error.errno)  # without the address, which asyncio adds: same failure, same words
    # EAI_AGAIN: the resolver itself could not ask, which says nothing about the name.
    not_asked = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    fallback = "timed out" if code is RejectCode.TIMEOUT else type(error).__name__
    return FetchError(code, detail.strip() or fallback, retry=retry or not_asked)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Computes the seconds to wait by a `Retry-After` header, seconds or an HTTP date; None where it says neither.

    Args:
      value: the header.
      now: the present, in seconds since 1970 (UTC).
    """
    if not value:
        return None
    if (digits := value.strip()).isdecimal():
        return float(digits)
    try:
        date = email.utils.parsedate_to_datetime(value)
        utc = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)  # an HTTP date without a zone
        return max(utc.timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None
