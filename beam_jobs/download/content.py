"""Takes an answer's body for what its first bytes are, whatever the header calls it.

Servers name images carelessly: `text/plain`, `jpg`, a Content-Encoding of `utf-8`, or of `gzip` on a JPEG as it stands.
What an image decoder can read is an image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from beam_jobs.download.errors import FetchError
from pipeline.images.magic import sniff
from pipeline.images.policy import RejectCode

_HEAD_BYTES = 512
_PIECE_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_HTML_TYPES = ("text/html", "application/xhtml")
_DEFLATED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_UNREADABLE = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})


def _window_bits(coding: str, head: bytes) -> int | None:
    """Chooses how zlib reads a body; None where `coding` says what the body is not."""
    if coding == "gzip":
        return _GZIP_BITS if head.startswith(_GZIP_MAGIC) else None
    # Some servers send deflate without the zlib header that the standard asks for.
    has_header = len(head) > 1 and head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
    return _ZLIB_BITS if has_header else _RAW_BITS


class Unpacker:
    """Undoes a Content-Encoding that the body really has; unknown ones, and false ones, mean none.

    What follows the end of the compressed data is ignored.
    """

    def __init__(self, encoding: str, write: Callable[[bytes], object]) -> None:
        """Prepares for one body.

        Args:
          encoding: the Content-Encoding, or "".
          write: takes the next bytes, a bounded number at a time; what it raises ends the decompression.
        """
        self._encoding = encoding
        tokens = [token for part in encoding.split(",") if (token := part.strip().lower())]
        self._codings = [token for token in tokens if token in _DEFLATED or token in _UNREADABLE]
        self._write = write
        self._head: bytearray | None = bytearray() if self._codings else None
        self._inflater: zlib._Decompress | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes off the wire. Raises FetchError."""
        if self._head is not None:
            self._head += data
            if len(self._head) >= _HEAD_BYTES:
                self._begin()
        elif self._inflater is not None:
            self._inflate(data)
        else:
            self._write(data)

    def close(self) -> None:
        """Says that the body has ended. Raises FetchError where it is not all there."""
        if self._head is not None:
            self._begin()
        if self._inflater is not None and not self._inflater.eof:
            raise FetchError(RejectCode.CUT_BODY, f"the {self._encoding[:100]} data end too early", retry=True)

    def _begin(self) -> None:
        """Decides, by the first bytes, what has to be undone."""
        head, self._head = bytes(self._head or b""), None
        if head and sniff(head) is None:
            if len(self._codings) > 1 or self._codings[0] in _UNREADABLE:
                raise FetchError(
                    RejectCode.CONTENT_TYPE,
                    f"Content-Encoding: {self._encoding[:100]}, which was not asked for, and the body is no image",
                )
            bits = _window_bits(_DEFLATED[self._codings[0]], head)
            self._inflater = zlib.decompressobj(bits) if bits else None
        self.feed(head)

    def _inflate(self, data: bytes) -> None:
        inflater = self._inflater
        assert inflater is not None
        while data and not inflater.eof:
            try:
                part = inflater.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                detail = f"Content-Encoding: {self._encoding[:100]}, which the body is not: {error}"
                raise FetchError(RejectCode.CONTENT_TYPE, detail) from error
            data = inflater.unconsumed_tail
            self._write(part)


class ImageGate:
    """Lets a body pass on to a sink as far as it is allowed, and stops a page that says that it is one."""

    def __init__(self, content_type: str, write: Callable[[bytes], object], *, max_bytes: int) -> None:
        """Prepares for one body.

        Args:
          content_type: the Content-Type, or "".
          write: takes the next bytes.
          max_bytes: how many may pass.
        """
        self._content_type = content_type
        self._head: bytearray | None = None
        if content_type.strip().lower().startswith(_HTML_TYPES):
            self._head = bytearray()
        self._write = write
        self._max_bytes = max_bytes
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes. Raises FetchError."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise FetchError(RejectCode.TOO_MANY_BYTES, f"more than the {self._max_bytes} bytes allowed")
        if self._head is None:
            self._write(data)
            return
        self._head += data
        if len(self._head) >= _HEAD_BYTES:
            self._decide()

    def close(self) -> None:
        """Says that the body has ended. Raises FetchError."""
        if self._head is not None:
            self._decide()

    def _decide(self) -> None:
        head, self._head = bytes(self._head or b""), None
        if head and sniff(head) is None:
            kind = self._content_type.strip()[:100]
            raise FetchError(RejectCode.CONTENT_TYPE, f"Content-Type: {kind}, and the body is no image")
        self._write(head)
