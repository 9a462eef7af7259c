"""Reads text files line by line, whatever their encoding and line ends, in bounded memory."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator

from beam_jobs.sources.rows import RowError
from pipeline.command import UsageError
from pipeline.format import storage

MAX_CHARACTERS = 4 << 20  # of a line, and of a record of several lines: more is no table of images
_MARKS = {  # the longer ones first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_OTHERS = {  # how files begin that are no text
    b"PAR1": "a Parquet file; give --source=parquet",
    b"PK\x03\x04": "a workbook or a zip archive; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook of old; save the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"(\xb5/\xfd": "compressed by zstd; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
}


class Lines(Iterator[str]):
    """Yields a file's lines with their ends; `with` closes it.

    Attributes:
      number: of the line that came last, from 1.
    """

    def __init__(self, path: str, encoding: str = "") -> None:
        """Opens the file.

        Args:
          path: on a disk or in a store.
          encoding: as Python names it; "" for UTF-8. A byte order mark says more than this does.

        Raises:
          UsageError: there is no such encoding.
          RowError: the file is known not to be text.
          OSError: it cannot be read.
        """
        self.number = 0
        self._record = 0
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(storage.open_file(path))
            head = file.read(8)
            file.seek(0)
            for start, what in _OTHERS.items():
                if head.startswith(start):
                    raise RowError(1, f"no text but {what}")
            self._encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), encoding or "utf-8")
            try:
                # Bytes that are wrong become lone surrogates, and the line that holds them can be named.
                self._text = io.TextIOWrapper(file, self._encoding, errors="surrogateescape", newline="")
            except (LookupError, ValueError) as error:
                raise UsageError(f"--encoding={encoding}: {error}; usual are utf-8, utf-16-le, windows-1252") from error
            stack.pop_all()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def new_record(self) -> None:
        """Says that a record is complete: `MAX_CHARACTERS` counts anew."""
        self._record = 0

    def __next__(self) -> str:
        try:
            line = self._text.readline(MAX_CHARACTERS + 1)
        except UnicodeError as error:
            raise RowError(self.number + 1, self._not_text(str(error))) from error
        if not line:
            raise StopIteration
        self.number += 1
        self._record += len(line)
        if self._record > MAX_CHARACTERS:
            raise RowError(
                self.number, f"the record has more than {MAX_CHARACTERS} characters; is a quote missing before?"
            )
        if not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
            raise RowError(self.number, self._not_text("some bytes mean nothing in it"))
        if self.number == 1 and "\0" in line:
            raise RowError(1, "NUL characters; if it is UTF-16 without a byte order mark, give --encoding=utf-16-le")
        return line

    def _not_text(self, reason: str) -> str:
        name = self._encoding.upper().removesuffix("-SIG")
        other = "utf-8" if name != "UTF-8" else "windows-1252"
        return f"not {name} ({reason}); name the file's encoding, perhaps --encoding={other}"
