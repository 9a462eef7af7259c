"""Defines where images come from: the contract between a source and the build, and the registry behind `--source`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from beam_jobs.download.store import DownloadStore
from beam_jobs.sources.left_out import LeftOut
from pipeline.command import UsageError, nearest
from pipeline.format.rows import RAW_PIXELS


def nfc(label: str) -> str:
    """Returns a label in Unicode's normal form C: macOS spells "ö" with two characters, everybody else with one."""
    return label if label.isascii() else unicodedata.normalize("NFC", label)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceItem:
    """Describes one image that a source offers, without its bytes.

    Attributes:
      uri: unique within the source; ends up in the record's `source`. A path relative to the input, an http(s) or
        gs:// URL, or the source's own scheme (`cifar10://train/17`).
      label: class name; in normal form C, whatever it was made with.
      split: official split ("train", "validation" or "test"), or None where the build chooses.
      stamp: changes whenever the bytes may have changed ("size:mtime_ns" for a file); "" where they cannot.
    """

    uri: str
    label: str
    split: str | None = None
    stamp: str = ""

    def __post_init__(self) -> None:
        if not self.label.isascii():
            object.__setattr__(self, "label", nfc(self.label))

    @property
    def raw_id(self) -> bytes | None:
        """Returns the record's id where it is the sha256 of raw pixels, None where it is that of a file's bytes."""
        return bytes.fromhex(self.stamp.removeprefix(RAW_PIXELS)) if self.stamp.startswith(RAW_PIXELS) else None

    def content_id(self, data: bytes) -> bytes:
        """Computes the record's id for the bytes that the source handed over: their sha256, or that of the raw pixels.

        Args:
          data: an encoded image; for an item stamped with `RAW_PIXELS`, a binary PPM with a header of three lines.
        """
        raw = data.split(b"\n", 3)[-1] if self.stamp.startswith(RAW_PIXELS) else data
        return hashlib.sha256(raw).digest()


class Source(Protocol):
    """Offers a set of labelled images. Picklable (it travels to Beam workers) and cheap to construct.

    One that `open_source` makes has a class attribute `needs`: the names of the options that it takes.
    """

    def items(self) -> Iterator[SourceItem]:
        """Lists the images without reading or downloading any.

        Raises:
          UsageError: the input does not exist or has not the layout that the source expects.
          DataError: the input's index is damaged.
        """

    def read(self, item: SourceItem) -> bytes:
        """Reads the encoded image (any format that Pillow reads), by random access, from any worker.

        Raises:
          ReadError: the image cannot be read; the build rejects it and goes on.
        """

    def labels(self) -> list[str] | None:
        """Lists all class names in their official order, or returns None: the sorted names that occur."""

    def fingerprint(self) -> str:
        """Identifies what the items do not show (an archive's digest, a version); equal data, equal text."""


@runtime_checkable
class RemoteSource(Source, Protocol):
    """Offers images some of which must be downloaded before they can be read: their URIs are http(s) URLs."""

    @property
    def store(self) -> DownloadStore:
        """Holds the downloads, for `read` to find them by the item's stamp, `sha256:…`."""


@runtime_checkable
class AnnouncedSource(Source, Protocol):
    """Offers images that can be on their way before they are read."""

    def announce(self, item: SourceItem) -> None:
        """Says that the item will be read soon. Raises nothing: what is wrong with it shows when it is read."""


@runtime_checkable
class ListingSource(Source, Protocol):
    """Offers images, and says what lies among them that it does not offer."""

    def listing(self) -> Iterator[SourceItem | LeftOut]:
        """Lists what `items` does, and what is left out. Raises what `items` raises."""


def everything(source: Source) -> Iterator[SourceItem | LeftOut]:
    """Lists a source's images, and what it leaves out if it can say. Raises what `Source.items` raises."""
    return source.listing() if isinstance(source, ListingSource) else source.items()


# name → (module, class); the class takes (input, options). Modules load on demand: none may slow down the others.
TABLES: dict[str, tuple[str, str]] = {
    "csv": ("beam_jobs.sources.table", "CsvSource"),
    "jsonl": ("beam_jobs.sources.table", "JsonlSource"),
    "parquet": ("beam_jobs.sources.table", "ParquetSource"),
    "table": ("beam_jobs.sources.table", "AnyTableSource"),
}
SOURCES: dict[str, tuple[str, str]] = {
    "folder": ("beam_jobs.sources.folder", "FolderSource"),
    **TABLES,
    "arrays": ("beam_jobs.sources.arrays", "ArraysSource"),
    "cifar10": ("beam_jobs.sources.cifar", "Cifar10Source"),
    "cifar100": ("beam_jobs.sources.cifar", "Cifar100Source"),
    "oxford_pets": ("beam_jobs.sources.oxford_pets", "OxfordPetsSource"),
    "tfds": ("beam_jobs.sources.tfds", "TfdsSource"),
}


# Their images are pixels that nobody has lost anything of yet, so their records are PNGs.
PIXEL_SOURCES = ("arrays", "cifar10", "cifar100", "tfds")


def open_source(name: str, *, input_path: str, options: Mapping[str, str]) -> Source:
    """Makes the source that `--source=name --input=input_path` asks for.

    Args:
      name: a key of `SOURCES`; what follows a first ":" (`tfds:mnist`) is the source's own and reaches it as
        `options["spec"]`.
      input_path: the value of --input.
      options: the source's own settings.

    Raises:
      UsageError: unknown source, with the nearest name.
    """
    kind, _, spec = name.partition(":")
    if kind not in SOURCES:
        raise UsageError(f"--source={name}: unknown; sources are {', '.join(SOURCES)}.{nearest(kind, list(SOURCES))}")
    module, factory = SOURCES[kind]
    source = getattr(importlib.import_module(module), factory)
    given = {**options, "spec": spec}
    # No more than it needs: the source travels to workers, where a path of this machine's disk means nothing.
    return source(input_path, {option: given[option] for option in source.needs if option in given})
