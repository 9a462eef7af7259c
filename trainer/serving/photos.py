"""Finds the images that somebody names, and reads them by the pixel policy of the dataset builder."""

from __future__ import annotations

import glob
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.images.policy import ReadError, read_bounded

STDIN = "-"
_URLS = ("http://", "https://")
_AGENT = "tpu-retraining trainer.predict"
_SECONDS = 30  # without a byte of a URL


def find_images(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the files and URLs that arguments stand for, in order.

    A folder stands for all files below it, but for hidden ones; a pattern for what it matches; `-` for the lines of
    standard input; all else for itself.

    Raises:
      UsageError: a pattern matches nothing.
    """
    for argument in arguments:
        if argument == STDIN:
            yield from filter(None, map(_without_newline, sys.stdin.buffer))
        elif argument.startswith(_URLS):
            yield argument
        elif storage.is_remote(argument):
            yield from _below(argument)
        elif os.path.isdir(argument):
            yield from _walk(argument)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matched = sorted(glob.glob(argument, recursive=True))
            if not matched:
                raise UsageError(f"{argument}: matches no file")
            for path in matched:
                yield from _walk(path) if os.path.isdir(path) else (path,)
        else:
            yield argument


def _without_newline(line: bytes) -> str:
    return os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))  # names of files may be no UTF-8


def _walk(argument: str) -> Iterator[str]:
    for folder, folders, files in os.walk(argument):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.join(folder, name) for name in sorted(files) if not name.startswith(".")]
        # A pipe would be waited for; a broken link is reported when it is read.
        yield from (path for path in paths if os.path.isfile(path) or not os.path.exists(path))


def _below(place: str) -> Iterator[str]:
    """Yields the objects below a folder of a store; the place itself where it is none."""
    try:
        entries = storage.list_folder(place)
    except FileNotFoundError:
        yield place
        return
    for entry in sorted(entries, key=lambda entry: (entry.is_folder, entry.name)):
        path = storage.join(place, entry.name)
        yield from _below(path) if entry.is_folder else (path,)


def read_source(name: str) -> bytes | str:
    """Returns the bytes of a file, local or in a store, or of a URL; or (a str) why they cannot be read."""
    try:
        if name.startswith(_URLS):
            request = urllib.request.Request(name, headers={"User-Agent": _AGENT})
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return read_bounded(answer)
        with storage.open_file(name) as file:
            return read_bounded(file)  # not all of a video
    except (OSError, http.client.HTTPException, ReadError, ValueError) as error:  # ValueError: no URL
        return _why(error)


def _why(error: Exception) -> str:
    if isinstance(error, ReadError):
        return error.detail
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
