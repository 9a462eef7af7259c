"""Represents what came of one URL, and the body of an answer on its way into the store."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO

from pipeline.format.packing import pack, unpack
from pipeline.images.policy import RejectCode

_MEMORY_BYTES = 1 << 20  # a body larger than this waits on disk
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """Describes what came of one URL: either the digest and size of its bytes, or the reason why there are none.

    Attributes:
      url: as listed.
      sha256: hex digest of the bytes; "" after a failure.
      size: bytes.
      final_url: where the redirects led.
      code: why it failed, or None.
      detail: what exactly happened.
      policy: digest of the limits under which it failed; other limits deserve another try.
    """

    url: str
    sha256: str = ""
    size: int = 0
    final_url: str = ""
    code: RejectCode | None = None
    detail: str = ""
    policy: str = ""

    def __post_init__(self) -> None:
        if bool(self.sha256) == (self.code is not None):
            raise ValueError(f"a download has either a sha256 or a failure code, got {self}")

    @property
    def stamp(self) -> str:
        """Makes the `SourceItem.stamp`: equal stamps, equal bytes."""
        return f"failed:{self.code.value}" if self.code else f"sha256:{self.sha256}"

    def to_bytes(self) -> bytes:
        """Encodes the download; the inverse of `from_bytes`."""
        fields = [getattr(self, name) for name in self.__slots__]
        return pack([field.value if isinstance(field, RejectCode) else field for field in fields])

    @classmethod
    def from_bytes(cls, data: bytes) -> Download:
        """Decodes a download. Raises ValueError or TypeError where this is none."""
        fields = dict(zip(cls.__slots__, unpack(data), strict=True))
        return cls(**fields | {"code": fields["code"] and RejectCode(fields["code"])})


class Body:
    """Collects an answer's bytes, hashed as they come; a context manager, as large ones lie in a temporary file.

    However small the pieces, it takes no more memory than the bytes themselves.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, part: bytes) -> None:
        """Appends `part`."""
        self._digest.update(part)
        self.size += len(part)
        if self._file is None:
            self._held += part
            if self.size <= _MEMORY_BYTES:
                return
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
            self._file.write(self._held)
            self._held.clear()
        else:
            self._file.write(part)

    def parts(self) -> Iterator[bytes]:
        """Yields all bytes from the first on, in pieces."""
        if self._file is None:
            yield bytes(self._held)
            return
        self._file.seek(0)
        while part := self._file.read(_CHUNK_BYTES):
            yield part
