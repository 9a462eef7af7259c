"""Reads, writes and lists what users name: local paths, and URLs of stores (gs://, s3://, memory://) through fsspec.

An object appears whole or not at all: locally under a temporary name that is then renamed, in a store by one upload.
`create` writes only what is not there yet, which is how a name is claimed. What goes wrong is an OSError that bears the
path, whatever the store's library raised. Free of TensorFlow; fsspec takes 0.2 s to import, so local paths do without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

from pipeline.command import UsageError, first_line

Path = str | os.PathLike[str]

_BUFFER = 1 << 20  # shards of small images are written in small pieces
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}  # scheme → our extra that brings its library
# What tells two states of an object apart, by store: gcs, s3, memory.
_CHANGES = ("generation", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
# HTTP statuses of stores that mean what the system's own errors mean.
_STATUSES = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 409: errno.EEXIST, 412: errno.EEXIST}
_CREDENTIALS = ("google.auth.",)  # a library whose every error is about them


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
    with _as_os_error(path):
        return _store(path).exists(os.fspath(path)) if is_remote(path) else os.path.exists(path)


def open_file(path: Path) -> IO[bytes]:
    """Opens a file for reading, as bytes, buffered and seekable."""
    with _as_os_error(path):
        return _store(path).open(os.fspath(path), "rb") if is_remote(path) else open(path, "rb")


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
    """Returns a file's size in bytes and its `Entry.stamp`."""
    if not is_remote(path):
        status = os.stat(path)
        return status.st_size, f"{status.st_size}:{status.st_mtime_ns}"
    with _as_os_error(path):
        info = _store(path).info(os.fspath(path))
    return info["size"] or 0, _stamp(info)


def list_folder(path: Path) -> list[Entry]:
    """Lists what lies directly in a folder, by name; FileNotFoundError where there is none.

    A store is asked with a delimiter: it answers with objects and sub-folders, not with all that lies below.
    """
    if not is_remote(path):
        with os.scandir(path) as scanned:
            return sorted(map(_local_entry, scanned), key=lambda entry: entry.name)
    found = {}
    folder = os.fspath(path).rstrip("/")
    with _as_os_error(path):
        for info in _store(path).ls(folder, detail=True):
            name = info["name"].rstrip("/").rpartition("/")[2]
            is_folder = info["type"] == "directory"
            # Some stores list the folder itself, as an object of no bytes.
            if name and info["name"].strip("/") != folder.partition("://")[2].strip("/"):
                size = 0 if is_folder else info["size"] or 0
                found[name] = Entry(name=name, is_folder=is_folder, size=size, stamp="" if is_folder else _stamp(info))
    return [found[name] for name in sorted(found)]


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
    with _removed_on_failure(temporary):
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
    """Writes a file only if nothing has its name: of several writers at once, one gets True and all others False."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        try:
            with _as_os_error(path):
                _store(path).pipe_file(os.fspath(path), data, mode="create")
        except FileExistsError:
            return False
        return True
    target = pathlib.Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    with _removed_on_failure(temporary):
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
        with contextlib.suppress(FileNotFoundError), _as_os_error(path):
            _store(path).rm(os.fspath(path), recursive=True)
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


def _stamp(info: Mapping[str, Any]) -> str:
    return f"{info['size']}:{next((str(info[key]) for key in _CHANGES if info.get(key)), '')}"


@contextlib.contextmanager
def _removed_on_failure(temporary: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _store(path: Path) -> Any:
    """Returns the file system of a URL's scheme, which fsspec keeps for the process.

    Raises:
      UsageError: an unknown scheme, or one whose library is not installed.
    """
    import fsspec

    scheme = os.fspath(path).partition("://")[0]
    try:
        # Without a cache of listings: others write, too.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ValueError as error:
        raise UsageError(f"{os.fspath(path)}: no such kind of store; known are gs://, s3:// and local paths") from error
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        fix = f"pip install 'tpu-retraining[{extra}]'" if extra else first_line(error)
        raise UsageError(f"{os.fspath(path)}: the library for {scheme}:// is not installed; {fix}") from error


@contextlib.contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Turns what a store's library raises into the OSError that a local file would have raised, with the path."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or not is_remote(path)):
            raise
        # OSError with a number becomes FileNotFoundError, PermissionError and so on by itself.
        raise OSError(_number(error), first_line(error)[:500], os.fspath(path)) from error


def _number(error: Exception) -> int:
    """Returns the error number that says what a store's library meant."""
    kinds = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, PermissionError: errno.EACCES}
    for kind, number in kinds.items():
        if isinstance(error, kind):
            return number
    if type(error).__module__.startswith(_CREDENTIALS):
        return errno.EACCES
    status = str(getattr(error, "code", None) or getattr(error, "status", None))
    return _STATUSES.get(int(status), errno.EIO) if status.isdecimal() else errno.EIO
