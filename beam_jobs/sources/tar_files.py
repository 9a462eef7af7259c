"""Reads the files of a tar archive that may be made to harm: no more memory or time than the limits say.

`tarfile` reads headers of any length into memory (long names, PAX records, maps of sparse files, each of which may
declare gigabytes that compress to nothing) and runs through members without end. Here it reads from a file that counts.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from pipeline.command import FormatError

MAX_ARCHIVE_BYTES = 2 << 30  # unpacked, whether they are looked at or not
MAX_MEMBERS = 1_000
_MAX_HEADER_BYTES = 64 << 10  # of a member; a long name takes 1 kB
# What `tarfile` and the decompressors raise for damage; RecursionError: headers that lead to headers.
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError)

_File = IO[bytes] | gzip.GzipFile | bz2.BZ2File


class _Counted(io.RawIOBase):
    """Passes reads through, up to a budget of bytes; what is passed over, and so unpacked, counts for the archive's."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._left = MAX_ARCHIVE_BYTES
        self.budget = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._spend(offset - self._file.tell())
        return self._file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.budget:
            raise FormatError(f"a header or member of {size} bytes, at most {self.budget} are allowed")
        self.budget -= size
        self._spend(size)
        return self._file.read(size)

    def _spend(self, size: int) -> None:
        """Counts what is unpacked; the way back, which `tarfile` never takes, would be unpacked anew from the start."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise FormatError(f"more than {MAX_ARCHIVE_BYTES} bytes unpacked")


class Member:
    """Represents a regular file in an archive; it can be read until the next one is asked for."""

    def __init__(self, name: str, size: int, archive: tarfile.TarFile, info: tarfile.TarInfo, file: _Counted) -> None:
        self.name = name
        self.size = size
        self._archive, self._info, self._file = archive, info, file

    def read(self, limit: int) -> bytes:
        """Returns its bytes. Raises FormatError: there are more than `limit`, or the archive is damaged."""
        if self.size > limit:
            raise FormatError(f"{self.size} bytes, at most {limit} are allowed")
        with _damage():
            self._file.budget = self.size
            content = self._archive.extractfile(self._info)
            assert content is not None  # it is for regular files
            data = content.read()
        if len(data) != self.size:
            raise FormatError("truncated")
        return data


def tar_files(path: str) -> Iterator[Member]:
    """Yields an archive's regular files in order; never extracts anything to a path. Plain, gzip or bzip2.

    Raises:
      FormatError: it is damaged or no tar archive, has a member that leads out of it, or goes beyond a limit.
      OSError: the file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open(path, "rb"))
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(b"\xfd7zXZ"):
            raise FormatError("packed by xz, which may take any amount of memory; unpack it first")
        unpacked: _File = raw
        if head.startswith(b"\x1f\x8b"):
            unpacked = stack.enter_context(gzip.open(raw))
        elif head.startswith(b"BZh"):
            unpacked = stack.enter_context(bz2.open(raw))
        file = _Counted(unpacked)
        with _damage():
            file.budget = _MAX_HEADER_BYTES
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        for number in range(MAX_MEMBERS + 1):
            with _damage():
                file.budget = _MAX_HEADER_BYTES
                info = archive.next()
            if info is None:
                return
            if number == MAX_MEMBERS:
                raise FormatError(f"more than {MAX_MEMBERS} members")
            if info.name.startswith("/") or ".." in info.name.split("/"):
                raise FormatError(f"member {info.name[:100]!r} leads out of the archive; this is no official one")
            if info.isfile() and not info.issparse():
                yield Member(info.name, info.size, archive, info, file)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except FormatError:
        raise
    except _DAMAGE as error:
        raise FormatError(f"damaged, or no tar archive: {error}") from error
