"""Reads the official CIFAR archives (https://www.cs.toronto.edu/~kriz/cifar.html): `--source=cifar10`, `cifar100`.

They come in the python or the binary version, as .tar.gz or unpacked. Listing unpacks them once into NumPy files, from
which workers read single images by memory map; an image is handed over as a binary PPM, identified by its raw pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np

from beam_jobs.sources import SourceItem
from beam_jobs.sources.cifar_batches import Batch, BatchError, read_binary, read_names, read_pickled_meta, read_python
from beam_jobs.sources.tar_files import tar_files
from pipeline.command import DataError, FormatError, UsageError
from pipeline.format.rows import RAW_PIXELS
from pipeline.images.policy import ReadError, RejectCode

SIDE = 32
_HEADER = b"P6\n%d %d\n255\n" % (SIDE, SIDE)
# Of a batch, of all together, and of the names: the largest official batch has 155 MB, all have 186; what is more is no
# CIFAR, and may be a bomb.
_MAX_BATCH_BYTES = 256 << 20
_MAX_BYTES = 512 << 20
_MAX_META_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Format:
    """Names the files of one version of a set, and how to read them."""

    train: str
    test: str
    meta: str
    read_batch: Callable[[bytes], Batch]
    read_meta: Callable[[bytes], list[str]]


_CIFAR10 = [
    _Format(
        train=r"data_batch_(\d{1,3})",
        test="test_batch",
        meta="batches.meta",
        read_batch=functools.partial(read_python, key="labels"),
        read_meta=functools.partial(read_pickled_meta, key="label_names"),
    ),
    _Format(
        train=r"data_batch_(\d{1,3})\.bin",
        test=r"test_batch\.bin",
        meta=r"batches\.meta\.txt",
        read_batch=functools.partial(read_binary, label_bytes=1),
        read_meta=read_names,
    ),
]
_CIFAR100 = [
    _Format(
        train="train",
        test="test",
        meta="meta",
        read_batch=functools.partial(read_python, key="fine_labels"),
        read_meta=functools.partial(read_pickled_meta, key="fine_label_names"),
    ),
    _Format(
        train=r"train\.bin",
        test=r"test\.bin",
        meta=r"fine_label_names\.txt",
        read_batch=functools.partial(read_binary, label_bytes=2),
        read_meta=read_names,
    ),
]


def _files(path: str) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Yields (file name, function that reads it up to a limit) of a folder or an archive."""
    if not os.path.isdir(path):
        for member in tar_files(path):
            yield os.path.basename(member.name), member.read
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file():
                yield entry.name, functools.partial(_read_file, entry.path)


def _read_file(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BatchError(f"more than the {limit} bytes that are allowed")
    return data


@dataclasses.dataclass
class _Contents:
    """Holds what an archive held, by file: training batches under their number."""

    train: dict[int, Batch] = dataclasses.field(default_factory=dict)
    test: Batch | None = None
    labels: list[str] | None = None
    bytes_left: int = _MAX_BYTES

    def take(self, name: str, read: Callable[[int], bytes], form: _Format) -> None:
        """Reads a file if it belongs to the format. Raises BatchError, naming it."""
        try:
            if match := re.fullmatch(form.train, name):
                self.train[int(match[1]) if match.groups() else 1] = form.read_batch(self._batch(read))
            elif re.fullmatch(form.test, name):
                self.test = form.read_batch(self._batch(read))
            elif re.fullmatch(form.meta, name):
                self.labels = form.read_meta(read(_MAX_META_BYTES))
        except FormatError as error:
            raise BatchError(f"{name}: {error}") from error

    def _batch(self, read: Callable[[int], bytes]) -> bytes:
        data = read(min(_MAX_BATCH_BYTES, self.bytes_left))
        self.bytes_left -= len(data)
        return data


def _read_contents(path: str, formats: list[_Format], classes: int) -> _Contents:
    """Reads a set's files. Raises DataError if one is damaged; UsageError if this is another layout."""
    found = [_Contents() for _ in formats]
    try:
        for name, read in _files(path):
            for contents, form in zip(found, formats, strict=True):
                contents.take(name, read, form)
    except (FormatError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    for contents in found:
        if contents.train and contents.test is not None and contents.labels is not None:
            _check(path, contents, classes)
            return contents
    patterns = (f"{form.train}, {form.test}, {form.meta}" for form in formats)
    files = " or ".join(text.replace(r"(\d{1,3})", "1").replace("\\", "") for text in patterns)
    raise UsageError(f"--input={path}: not an official CIFAR-{classes} archive; it needs {files}")


def _check(path: str, contents: _Contents, classes: int) -> None:
    labels = contents.labels or []
    if len(labels) != classes or len(set(labels)) != classes:
        raise DataError(f"{path}: {len(labels)} label names, expected {classes} distinct ones")
    for batch in (*contents.train.values(), contents.test):
        if batch is not None and batch.labels.max(initial=0) >= classes:
            raise DataError(f"{path}: label {batch.labels.max()} is not one of {classes}")


def _write_split(directory: str, split: str, batches: list[Batch]) -> None:
    total = sum(len(batch.labels) for batch in batches)
    pixels = np.lib.format.open_memmap(
        os.path.join(directory, f"{split}-pixels.npy"), mode="w+", dtype=np.uint8, shape=(total, SIDE, SIDE, 3)
    )
    digests = np.empty((total, 32), np.uint8)
    at = 0
    for batch in batches:
        images = batch.images()
        for offset, image in enumerate(images):
            digests[at + offset] = np.frombuffer(hashlib.sha256(image.tobytes()).digest(), np.uint8)
        pixels[at : at + len(images)] = images
        at += len(images)
    pixels.flush()
    np.save(os.path.join(directory, f"{split}-digests.npy"), digests)
    np.save(os.path.join(directory, f"{split}-labels.npy"), np.concatenate([batch.labels for batch in batches]))


@functools.lru_cache(maxsize=8)
def _mapped(path: str) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


@dataclasses.dataclass(frozen=True)
class CifarSource:
    """Offers the images of an official archive.

    Attributes:
      path: the value of --input: the .tar.gz, the folder unpacked from it, or the folder around that.
      options: `work_dir`, where the NumPy files go.
    """

    path: str
    options: Mapping[str, str]

    needs: ClassVar[tuple[str, ...]] = ("work_dir",)

    name: ClassVar[str]
    classes: ClassVar[int]
    formats: ClassVar[list[_Format]]
    folders: ClassVar[tuple[str, ...]]

    @functools.cached_property
    def _directory(self) -> str:
        """Finds the directory of the NumPy files, and unpacks them where they are not: each archive has its own."""
        if not (os.path.isdir(self.path) or os.path.isfile(self.path)):
            raise UsageError(f"--input={self.path}: no such file or folder; give the official CIFAR archive")
        inner = [path for name in self.folders if os.path.isdir(path := os.path.join(self.path, name))]
        path = inner[0] if inner else self.path
        files = [os.path.join(path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else [path]
        stamps = [(os.path.realpath(file), os.stat(file)) for file in files]
        key = json.dumps([(file, status.st_size, status.st_mtime_ns) for file, status in stamps])
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        directory = os.path.join(self.options["work_dir"], f"{self.name}-{digest}")
        if not os.path.isdir(directory):
            self._unpack(path, directory)
        return directory

    def _unpack(self, path: str, directory: str) -> None:
        contents = _read_contents(path, self.formats, self.classes)
        assert contents.test is not None
        temporary = f"{directory}.{uuid.uuid4().hex}.tmp"
        os.makedirs(temporary)
        try:
            _write_split(temporary, "train", [batch for _, batch in sorted(contents.train.items())])
            _write_split(temporary, "test", [contents.test])
            with open(os.path.join(temporary, "labels.json"), "w", encoding="utf-8") as file:
                json.dump(contents.labels, file)
            os.rename(temporary, directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`. Unpacks the archive the first time."""
        labels = self.labels()
        for split in ("train", "test"):
            numbers = _mapped(os.path.join(self._directory, f"{split}-labels.npy"))
            digests = _mapped(os.path.join(self._directory, f"{split}-digests.npy"))
            for index, (number, digest) in enumerate(zip(numbers, digests, strict=True)):
                stamp = f"{RAW_PIXELS}{digest.tobytes().hex()}"
                yield SourceItem(
                    uri=f"{self.name}://{split}/{index}", label=labels[int(number)], split=split, stamp=stamp
                )

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`; the image comes as a binary PPM."""
        split, _, index = item.uri.removeprefix(f"{self.name}://").partition("/")
        try:
            return _HEADER + _mapped(os.path.join(self._directory, f"{split}-pixels.npy"))[int(index)].tobytes()
        except (OSError, ValueError, IndexError) as error:
            raise ReadError(RejectCode.UNREADABLE, str(error)) from error

    def labels(self) -> list[str]:
        """Lists the archive's own names, in the order of its label numbers."""
        with open(os.path.join(self._directory, "labels.json"), encoding="utf-8") as file:
            labels: list[str] = json.load(file)
        return labels

    def fingerprint(self) -> str:
        """Names the labels; the items' stamps say the rest."""
        return f"{self.name}:{','.join(self.labels())}"


class Cifar10Source(CifarSource):
    """Offers CIFAR-10."""

    name = "cifar10"
    classes = 10
    formats = _CIFAR10
    folders = ("cifar-10-batches-py", "cifar-10-batches-bin")


class Cifar100Source(CifarSource):
    """Offers CIFAR-100 with its 100 fine labels."""

    name = "cifar100"
    classes = 100
    formats = _CIFAR100
    folders = ("cifar-100-python", "cifar-100-binary")
