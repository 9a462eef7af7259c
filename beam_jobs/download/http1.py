"""Reads HTTP/1.1 (RFC 9112) as far as a download needs it: one answer at a time, strictly and within limits.

http.client parses an answer's head with the machinery for e-mail, which takes longer than receiving a photo, and is
silent about a body that ends early. What a server sends is untrusted: each line and loop here has a limit, and an
answer whose end is in doubt costs its connection, so that nothing behind it can pass for the next answer.
"""

from __future__ import annotations

import re
from typing import Protocol

from beam_jobs.download.errors import FetchError
from pipeline.images.policy import RejectCode

OK = 200

_RECEIVE_BYTES = 1 << 16
_PART_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 16
_MAX_FIELDS = 100
_MAX_INTERIM = 8  # answers of the kind 1xx before the real one
_MAX_CHUNK_LINE = 1 << 10

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_LINE_END = re.compile(rb"\n")
_HEAD_END = re.compile(rb"\n\r?\n")
_FIELD = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n]*?)[ \t]*\r?$", re.MULTILINE)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NO_BODY = frozenset({204, 304})


class Wire(Protocol):
    """Receives the bytes of an answer."""

    def receive_into(self, buffer: memoryview) -> int:
        """Waits for the next bytes, puts them into `buffer` and returns their number, 0 at the end; OSError."""


def malformed(detail: str) -> FetchError:
    """Makes the error for an answer that breaks the protocol."""
    return FetchError(RejectCode.CONNECTION, f"malformed HTTP answer: {detail}", retry=True)


def _cut(detail: str) -> FetchError:
    return FetchError(RejectCode.CUT_BODY, detail, retry=True)


class Reader:
    """Hands out a connection's bytes, those that came early first; belongs to it for as long as it lives."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._data = b""
        self._at = 0  # bytes of it already handed out: slicing them off would cost a copy of the rest each time
        self._space = memoryview(bytearray(_RECEIVE_BYTES))

    @property
    def early(self) -> int:
        """Counts the bytes received and not asked for yet."""
        return len(self._data) - self._at

    def some(self, count: int) -> bytes:
        """Reads up to `count` bytes, at least one, or none at the connection's end."""
        if not self.early:
            return bytes(self._space[: self._wire.receive_into(self._space[:count])])
        return self._take(min(count, self.early))

    def whole(self, count: int) -> memoryview:
        """Reads `count` bytes, fewer only where the connection ends."""
        buffer = memoryview(bytearray(count))
        filled = min(count, self.early)
        buffer[:filled] = self._take(filled)
        while filled < count:
            received = self._wire.receive_into(buffer[filled:])
            if not received:
                break
            filled += received
        return buffer[:filled]

    def through(self, end: re.Pattern[bytes], *, limit: int, begins: bytes = b"") -> bytes | None:
        """Reads all bytes up to the first match of `end`, included; None where the connection ends before it.

        Raises: FetchError if the first `limit` bytes hold no match, or do not begin with `begins`.
        """
        searched = 0
        while True:
            if not begins.startswith(self._data[self._at : self._at + len(begins)]):
                raise malformed(f"begins with {self._data[self._at : self._at + 40]!r}")
            if found := end.search(self._data, self._at + searched, self._at + limit):
                return self._take(found.end() - self._at)
            if self.early >= limit:
                raise malformed(f"no end of a header or chunk size after {limit} bytes")
            searched = max(self.early - 2, 0)  # an end may come in parts
            received = self._wire.receive_into(self._space)
            if not received:
                return None
            self._data, self._at = self._data[self._at :] + self._space[:received], 0

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        self._at += count
        return part


class Answer:
    """Reads an answer: its head at once, its body piece by piece.

    Attributes:
      status: three digits.
      reason: the words behind it.
      length: bytes of the body as announced, None if it was not.
    """

    def __init__(self, reader: Reader) -> None:
        """Reads the head.

        Raises:
          FetchError: what came is no HTTP/1 answer, or its head is too long.
          OSError: of the connection, which may have ended instead.
        """
        self._reader = reader
        for _ in range(_MAX_INTERIM + 1):
            version = self._read_head()
            if self.status >= 200:
                break
            if self.status == 101:
                raise malformed("101 without a question for another protocol")
        else:
            raise malformed(f"more than {_MAX_INTERIM} interim answers")
        self._frame(version)

    def _read_head(self) -> bytes:
        head = self._reader.through(_HEAD_END, limit=_MAX_HEAD_BYTES, begins=b"HTTP/1.")
        if head is None:
            if not self._reader.early:
                raise ConnectionResetError("the server closed the connection without an answer")
            raise malformed("the connection closed within the header")
        line = _STATUS_LINE.match(head)
        if not line:
            raise malformed(f"begins with {head[:40]!r}")
        self.status = int(line[2])
        self.reason = (line[3] or b"").decode("latin-1").strip()
        lines = head[line.end() :].rstrip(b"\r\n")
        if b"\n " in lines or b"\n\t" in lines:  # one field over several lines, which is obsolete
            lines = _FOLD.sub(b" ", lines)
        fields = _FIELD.findall(lines)
        if len(fields) > _MAX_FIELDS:
            raise malformed(f"{len(fields)} header fields")
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(name.decode().lower(), []).append(value.decode("latin-1"))
        # A line that is no field is passed over, as browsers do; but who knows what it was to say about the end.
        self._clear = len(fields) == (lines.count(b"\n") + 1 if lines else 0)
        return line[1]

    def _frame(self, version: bytes) -> None:
        """Finds out where the body ends."""
        options = {option.strip().lower() for option in self.joined("connection").split(",")}
        self._kept_alive = self._clear and "close" not in options and (version == b"1" or "keep-alive" in options)
        self.length: int | None = None
        self._chunked = False
        self._left = 0  # of the body or the chunk
        encodings, lengths = self.joined("transfer-encoding").lower(), self.fields("content-length")
        if self.status in _NO_BODY:
            self.length = 0
        elif encodings:
            if encodings.strip() != "chunked":
                raise malformed(f"Transfer-Encoding: {encodings[:100]}")
            self._chunked = True
            self._kept_alive = self._kept_alive and not lengths  # two ends: somebody in between may believe the other
        elif lengths:
            distinct = {length.strip() for several in lengths for length in several.split(",")}
            length = distinct.pop()
            if distinct or not _LENGTH.fullmatch(length):
                raise malformed(f"Content-Length: {', '.join(lengths)[:100]}")
            self.length = self._left = int(length)
        self._until_close = self.length is None and not self._chunked
        self._ended = self.length == 0

    def fields(self, name: str) -> list[str]:
        """Lists the values of the header fields with this (lower-case) name, in order."""
        return self._fields.get(name, [])

    def joined(self, name: str) -> str:
        """Joins the values of the header fields with this (lower-case) name as one list; "" without any."""
        return ", ".join(self._fields.get(name, ()))

    def read(self) -> bytes | memoryview:
        """Reads the next part of the body, up to a megabyte; nothing at its end.

        Raises:
          FetchError: the body ends before it should, or its chunks are malformed.
          OSError: of the connection.
        """
        if self._ended:
            return b""
        if self._until_close:
            part: bytes | memoryview = self._reader.some(_RECEIVE_BYTES)
            self._ended = not part
            return part
        if self._chunked and not self._left:
            self._left = self._chunk_size()
            if not self._left:
                self._ended = True
                return b""
        wanted = min(self._left, _PART_BYTES)
        part = self._reader.whole(wanted)
        self._left -= len(part)
        if len(part) < wanted:
            if self._chunked:
                raise _cut("the connection closed within a chunk")
            assert self.length is not None
            raise _cut(f"{self.length - self._left} of {self.length} bytes")
        if not self._left:
            if self._chunked:
                self._line_end()
            else:
                self._ended = True
        return part

    def finish(self) -> bool:
        """Says whether the connection can carry another request: the answer was read to its end and nothing follows."""
        if not self._ended and self.length is not None and self._left <= self._reader.early:
            self._reader.whole(self._left)  # the few words of a redirect have come with it
            self._ended = True
        return self._ended and self._kept_alive and not self._until_close and not self._reader.early

    def _chunk_size(self) -> int:
        line = self._reader.through(_LINE_END, limit=_MAX_CHUNK_LINE)
        if line is None:
            raise _cut("the connection closed before the last chunk")
        size = _CHUNK_SIZE.fullmatch(line)
        if not size:
            raise malformed(f"chunk size {line[:40]!r}")
        if int(size[1], 16):
            return int(size[1], 16)
        for _ in range(_MAX_FIELDS + 1):  # fields behind the body, which nobody needs
            trailer = self._reader.through(_LINE_END, limit=_MAX_HEAD_BYTES)
            if trailer is None:
                self._kept_alive = False  # the last chunk has come, so the body is whole
                return 0
            if trailer in (b"\r\n", b"\n"):
                return 0
        raise malformed(f"more than {_MAX_FIELDS} fields behind the body")

    def _line_end(self) -> None:
        end = self._reader.through(_LINE_END, limit=2)
        if end is None:
            raise _cut("the connection closed before the last chunk")
        if end not in (b"\r\n", b"\n"):
            raise malformed(f"{end[:40]!r} behind a chunk")
