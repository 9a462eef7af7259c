"""Reads tables in Parquet in a process of its own, which may die of a damaged one."""

from __future__ import annotations

import json
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from beam_jobs.sources.columns import say_once
from beam_jobs.sources.rows import RowError, TableRow
from pipeline.command import DataError, UsageError
from pipeline.format import storage
from pipeline.format.packing import unpack
from pipeline.images.zygote import child_environment

LENGTH = struct.Struct("<Q")  # before every message, bytes
ROWS, SAID, WRONG_ROW, WRONG_FILE, END = "rows", "said", "wrong row", "wrong file", "end"  # kinds of messages


def parquet_rows(path: str, asked: Mapping[str, str], encoding: str) -> Iterator[TableRow]:
    """Yields the rows of a Parquet file; `encoding` is "", for its text is UTF-8.

    Raises:
      UsageError: an encoding is given.
      DataError: the file is damaged, or has other columns than a table of images.
      RowError: a row is wrong.
      OSError: the file cannot be read.
    """
    if encoding:
        raise UsageError(f"--encoding={encoding}: text in Parquet is always UTF-8")
    storage.open_file(path).close()  # what is not there is said here
    command = [sys.executable, "-m", "beam_jobs.sources.parquet_child", json.dumps([path, dict(asked)])]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment()
    ) as child:
        assert child.stdout is not None
        try:
            yield from _rows(path, child.stdout)
        except EOFError:
            code = child.wait()
            if code >= 0:
                raise RuntimeError(f"the reader ended with code {code}; its errors: {shlex.join(command)}") from None
            reason = f"damaged: the library that reads Parquet ends with {signal.Signals(-code).name}"
            raise DataError(f"{path}: {reason}; write the table anew, or as CSV") from None
        finally:
            child.kill()  # also where nobody asks for more rows


def _rows(path: str, replies: IO[bytes]) -> Iterator[TableRow]:
    """Yields the rows that the child sends, and raises what it says. EOFError: it has died."""
    while True:
        kind, content = _message(replies)
        if kind == ROWS:
            for fields in content:
                yield TableRow(*fields)
        elif kind == SAID:
            say_once(content)
        elif kind == WRONG_ROW:
            line, problem, unit = content
            raise RowError(line, problem, unit=unit)
        elif kind == WRONG_FILE:
            raise DataError(content)
        elif kind == END:
            return


def _message(replies: IO[bytes]) -> tuple[str, Any]:
    head = replies.read(LENGTH.size)
    body = replies.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if not body:
        raise EOFError
    message: tuple[str, Any] = unpack(body)
    return message
