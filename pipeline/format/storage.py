"""Reads, writes and lists what users name: local paths, and URLs of stores (gs://, s3://, memory://) through fsspec.

An object appears whole or not at all: locally under a temporary name that is then renamed, in a store by one upload.
`create` writes only what is not there yet, which is how a name is claimed. What goes wrong is an OSError that bears the
path, whatever the store's library raised. Free of TensorFlow; fsspec takes 0.2 s to import, so local paths do without.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import errno
import functools
import io
import logging
import os
import pathlib
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from pipeline.command import FULL, UsageError, first_line

Path = str | os.PathLike[str]

_BUFFER = 1 << 20  # shards of small images are written in small pieces
# Scheme → our extra that brings its library. A closed list: fsspec knows more, which a table of strangers could name.
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "memory": ""}
# What tells two states of an object apart, by store: gcs, s3, memory.
_CHANGES = ("generation", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
# HTTP statuses of stores, and kinds of errors without a number, that mean what the system's own errors mean.
_STATUSES = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 409: errno.EBUSY, 412: errno.EEXIST}
_KINDS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
}
_CREDENTIALS = ("google.auth.",)  # a library whose every error is about them
_BLOCK = 4 << 20  # what a read of a remote file fetches ahead; libraries' own defaults are up to 50 MB
_DELETES_AT_ONCE = 16
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds; S3 asks to try again while others write or delete the same name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Describes what a folder holds under a name.

    Attributes:
      name: inside of the folder, without a slash.
      is_folder: whether it is a folder (in a store: the common beginning of names).
      size: bytes; 0 of a folder.
      stamp: changes whenever the content may have changed: the size with a time, a generation or an ETag.
    """

    name: str
    is_folder: bool
    size: int
    stamp: str


def is_remote(path: Path) -> bool:
    """Says whether `path` is a URL of a store."""
    return "://" in os.fspath(path)


def join(path: Path, *names: str) -> str:
    """Joins a path and names below it by slashes."""
    return os.path.join(os.fspath(path), *names)


def exists(path: Path) -> bool:
    """Says whether there is a file, an object or a folder."""
    if not is_remote(path):
        return os.path.exists(path)
    try:
        with _as_os_error(path):
            _store(path).info(os.fspath(path))  # unlike fsspec's exists, never says no because it was denied
    except FileNotFoundError:
        return False
    return True


def open_file(path: Path) -> IO[bytes]:
    """Opens a file for reading, as bytes, buffered and seekable."""
    return io.BufferedReader(_RemoteFile(path), _BUFFER) if is_remote(path) else open(path, "rb")


def read(path: Path) -> bytes:
    """Returns a file's content."""
    if not is_remote(path):
        return pathlib.Path(path).read_bytes()
    with _as_os_error(path):
        content: bytes = _store(path).cat_file(os.fspath(path))
        return content


def read_text(path: Path) -> str:
    """Returns a file's content, which is UTF-8."""
    return read(path).decode()


def stamp(path: Path) -> tuple[int, str]:
    """Returns a file's size in bytes and its `Entry.stamp`; IsADirectoryError for a folder."""
    if not is_remote(path):
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise _os_error(errno.EISDIR, path)
        return status.st_size, f"{status.st_size}:{status.st_mtime_ns}"
    info = _file_info(path)
    return info["size"], _stamp(info)


def list_folder(path: Path) -> list[Entry]:
    """Lists what lies directly in a folder, by name; FileNotFoundError where there is none.

    A store is asked with a delimiter: it answers with objects and sub-folders, not with all that lies below. Unlike a
    disk, it may hold an object and a folder of one name.
    """
    if not is_remote(path):
        with os.scandir(path) as scanned:
            return sorted(map(_local_entry, scanned), key=lambda entry: entry.name)
    folder = os.fspath(path).partition("://")[2].strip("/")
    with _as_os_error(path):
        infos = _store(path).ls(os.fspath(path).rstrip("/"), detail=True)
    # Some stores list the folder itself, as an object of no bytes whose name ends in a slash or as a folder.
    below = [info for info in infos if info["name"].strip("/") != folder]
    if not below and any(info["type"] != "directory" and not info["name"].endswith("/") for info in infos):
        raise _os_error(errno.ENOTDIR, path)
    return sorted(map(_remote_entry, below), key=lambda entry: (entry.name, entry.is_folder))


@contextlib.contextmanager
def whole_file(path: Path, *, shared: bool = False, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file that becomes what `path` names when the block ends, and vanishes if it fails.

    A reader sees the old or the new content, never half. In a store the content is held in memory and uploaded once.

    Args:
      path: its folder exists, if it is local.
      shared: whether others may write the same file at this moment: each then has a temporary name of its own. Without,
        what a killed writer left behind is overwritten by the next.
      durable: whether the content survives a power cut; what a store has accepted does.
    """
    if is_remote(path):
        content = io.BytesIO()
        yield content
        with _as_os_error(path):
            _store(path).pipe_file(os.fspath(path), content.getvalue())
        return
    target = pathlib.Path(path)
    suffix = f".{os.getpid()}.{os.urandom(4).hex()}" if shared else ""
    temporary = target.parent / f".{target.name}{suffix}.tmp"
    with _removed_on_failure(temporary, target):
        with open(temporary, "wb", buffering=_BUFFER) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)


def write_atomically(path: Path, content: bytes | str, *, shared: bool = False, durable: bool = False) -> None:
    """Replaces a file whole or not at all; text is written as UTF-8. See `whole_file` for the arguments."""
    with whole_file(path, shared=shared, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path, content: bytes | str) -> bool:
    """Writes a file only if nothing has its name: of several writers at once, one gets True and all others False.

    In a store even that one gets False if the answer was lost on the way and the library asked again; what the file
    holds then tells whose it is.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        return _create_remote(path, data)
    target = pathlib.Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    with _removed_on_failure(temporary, target):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)  # unlike a rename, fails where there is something
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
    return True


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where folders are made: a store has none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def delete(path: Path) -> None:
    """Removes a file, or a folder with all that it holds; does nothing where there is neither."""
    if is_remote(path):
        _delete_remote(path)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


def _local_entry(entry: os.DirEntry[str]) -> Entry:
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere
        return Entry(name=entry.name, is_folder=False, size=0, stamp="")
    if entry.is_dir():
        return Entry(name=entry.name, is_folder=True, size=0, stamp="")
    return Entry(name=entry.name, is_folder=False, size=status.st_size, stamp=f"{status.st_size}:{status.st_mtime_ns}")


def _remote_entry(info: Mapping[str, Any]) -> Entry:
    name = info["name"].rstrip("/").rpartition("/")[2]
    if info["type"] == "directory":
        return Entry(name=name, is_folder=True, size=0, stamp="")
    return Entry(name=name, is_folder=False, size=info["size"], stamp=_stamp(info))


def _stamp(info: Mapping[str, Any]) -> str:
    change = next((info[key] for key in _CHANGES if info.get(key)), "")
    # fsspec's memory:// answers with a time or a number, depending on the question.
    return f"{info['size']}:{change.timestamp() if isinstance(change, datetime.datetime) else change}"


def _file_info(path: Path) -> Mapping[str, Any]:
    with _as_os_error(path):
        info: Mapping[str, Any] = _store(path).info(os.fspath(path))
    if info["type"] == "directory":
        raise _os_error(errno.EISDIR, path)
    return info


class _RemoteFile(io.RawIOBase):
    """Reads an object of a store; keeps its own position and turns errors of the store into OSErrors."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._size = path, 0, _file_info(path)["size"]
        with _as_os_error(path):
            self._file = _store(path).open(os.fspath(path), "rb", block_size=_BLOCK, cache_type="readahead")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        with _as_os_error(self._path):
            self._file.seek(self._position)  # all who open one memory:// object share its position
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _create_remote(path: Path, data: bytes) -> bool:
    for pause in (*_CONFLICT_PAUSES, None):
        try:
            with _as_os_error(path):
                _store(path).pipe_file(os.fspath(path), data, mode="create")
            break
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno != errno.EBUSY or pause is None:
                raise
            time.sleep(pause)
    return True


def _delete_remote(path: Path) -> None:
    """Deletes objects one by one, several at a time; spares what another makes under the name meanwhile.

    fsspec's `rm` takes `[1]`, `*` and `?` in a name for patterns, and s3fs' says nothing of what it may not delete.
    """

    def delete(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # deleted by another one, meanwhile
            store.rm_file(name)

    with contextlib.suppress(FileNotFoundError), _as_os_error(path):
        store = _store(path)
        name = os.fspath(path).partition("://")[2].strip("/")
        if "/" in name:  # never the bucket itself
            delete(name)  # apart: there may be a folder of the same name, which `find` then does not look into
        with concurrent.futures.ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
            list(pool.map(delete, (found for found in store.find(os.fspath(path)) if found.lstrip("/") != name)))


@contextlib.contextmanager
def _removed_on_failure(temporary: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            error.filename = os.fspath(target)  # of a write, which tells none
        raise


def _store(path: Path) -> Any:
    """Returns the file system of a URL's scheme, which fsspec keeps for the process.

    Raises:
      UsageError: an unknown scheme, or one whose library is not installed.
    """
    scheme = os.fspath(path).partition("://")[0]
    if scheme not in EXTRAS:
        raise UsageError(f"{os.fspath(path)}: no such kind of store; known are gs://, s3:// and local paths")
    import fsspec

    try:
        # Without a cache of listings: others write, too.
        return fsspec.filesystem(scheme, use_listings_cache=False, **_options(scheme))
    except ImportError as error:
        fix = f"pip install 'tpu-retraining[{EXTRAS[scheme]}]'"
        raise UsageError(f"{os.fspath(path)}: the library for {scheme}:// is not installed; {fix}") from error


@functools.cache  # the same objects each time, by which fsspec finds the file system that it keeps
def _options(scheme: str) -> dict[str, Any]:
    """Returns what a store's library is told beyond what the user's environment and fsspec's configuration tell it."""
    if EXTRAS.get(scheme) != "gcs":
        return {}
    import asyncio

    import aiohttp
    from fsspec.config import conf

    async def soon(request: Any, send: Any) -> Any:
        """Gives up on an absent server in seconds; gcsfs tries for 40 s if it refuses, or for minutes."""
        for pause in (1, 2, None):
            try:
                return await send(request)
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
                if pause is None:
                    raise RuntimeError(first_line(error)) from error  # which gcsfs does not try again
                await asyncio.sleep(pause)

    # It logs tracebacks of what it raises, which we turn into an error of one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)
    session = {"middlewares": (soon,), **conf.get(scheme, {}).get("session_kwargs", {})}
    return {"session_kwargs": session, "requests_timeout": timeout}  # a session's own timeout gcsfs overrides


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), os.fspath(path))


@contextlib.contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Turns what a store's library raises into the OSError that a local file would have raised, with the path."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        number = _number(error)
        # OSError with a number becomes FileNotFoundError, PermissionError and so on by itself.
        raise OSError(number, first_line(error)[:500] or os.strerror(number), os.fspath(path)) from error


def _number(error: Exception) -> int:
    """Returns the error number that says what a store's library meant."""
    response = getattr(error.__cause__ or error, "response", None)  # botocore's
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    for status in (answer.get("HTTPStatusCode"), getattr(error, "code", None), getattr(error, "status", None)):
        if str(status).isdecimal() and int(str(status)) in _STATUSES:
            return _STATUSES[int(str(status))]
    if number := next((number for kind, number in _KINDS.items() if isinstance(error, kind)), None):
        return number
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")  # gcsfs' way to say 403
    if forbidden or type(error).__module__.startswith(_CREDENTIALS) or "Credentials" in type(error).__name__:
        return errno.EACCES
    return getattr(error, "errno", None) or getattr(error.__cause__, "errno", None) or errno.EIO
