"""Opens a dataset root: `DATA/versions/<version>/manifest.json` and the pointer `DATA/CURRENT`. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.command import DataError, UsageError, nearest, printable_line
from pipeline.format import kinds, records, storage

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
STATISTICS_FILE = "statistics.json"
CURRENT_FILE = "CURRENT"
VERSIONS_DIR = "versions"
TRAIN, VALIDATION, TEST = "train", "validation", "test"  # the splits that training knows

_SHOWN = 200  # characters of what a damaged file says
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Describes one TFRecord file of a split.

    Attributes:
      name: file name inside the version directory.
      examples: number of records.
      bytes: file size.
      sha256: hex digest of the file.
    """

    name: str
    examples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or "/" in self.name or not self.name:
            raise ValueError(f"a shard's name is a plain file name, got {self.name!r}")
        if self.examples < 0 or self.bytes < 0:
            raise ValueError(f"shard {self.name}: negative counts ({self.examples} examples, {self.bytes} bytes)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Says what a dataset version holds. Written last, so its presence says that the version is whole.

    Attributes:
      name: dataset name, the prefix of the shard files.
      version: `MAJOR.MINOR.PATCH`.
      labels: label names; a record's `label` indexes them.
      label_order: what puts them in order: "source" (its own list of classes), "number" (each begins with a number,
        which decides before the text does: 1, 2, … 10), "text" (Unicode's code points), or "" where nothing says it.
      splits: split name → its shards, in order.
      source_fingerprint: sha256 (hex) over what the source listed; equal fingerprint and configuration, equal data.
      build: the configuration of the build, as flags → values.
      code_version: version of the builder that wrote it.
      max_height: pixels of the tallest image.
      max_width: pixels of the widest image.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    source_fingerprint: str
    build: Mapping[str, Any]
    code_version: str
    max_height: int
    max_width: int
    label_order: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version {self.format_version} is not the {FORMAT_VERSION} that this code reads")
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version must be MAJOR.MINOR.PATCH, got {self.version!r}")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError(f"labels must be distinct and not empty, got {list(self.labels)}")
        if not all(isinstance(label, str) for label in self.labels):
            raise TypeError(f"labels are text, got {list(self.labels)}")
        if not self.splits:
            raise ValueError("a manifest needs at least one split")
        if not isinstance(self.build, Mapping):
            raise TypeError(f"build is an object: flag → value, got {self.build!r}")

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def has_png(self) -> bool:
        """Says whether records may hold PNGs, because the source was raw pixels."""
        return bool(self.build.get("policy.lossless"))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Lists the shards of a split, in order; UsageError naming the splits there are if it is not one of them."""
        if split not in self.splits:
            known = list(self.splits)
            raise UsageError(
                f'no split "{split}" in dataset {self.name}; it has {", ".join(known)}.{nearest(split, known)}'
            )
        return self.splits[split]

    def num_examples(self, split: str) -> int:
        return sum(shard.examples for shard in self.shards(split))

    def to_json(self) -> str:
        """Returns deterministic JSON text: sorted keys, newline at the end."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads a manifest from its JSON text; unknown keys are ignored.

        Raises:
          ValueError: no JSON object, a key is missing (the message names it), or a value is not allowed.
          TypeError: a value is of the wrong type, or a key of a shard is missing or unknown.
        """
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("lists or objects in one another without end") from error
        if not isinstance(data, dict):
            raise ValueError("a manifest is a JSON object")
        names = {f.name for f in dataclasses.fields(cls)}
        if missing := sorted(names - {"format_version", "label_order"} - set(data)):
            raise ValueError(f"missing key {missing[0]!r}")
        data = {key: value for key, value in data.items() if key in names}
        if not isinstance(data["labels"], list):
            raise TypeError("labels is a list of names")
        data["labels"] = tuple(data["labels"])
        if not isinstance(data["splits"], dict):
            raise ValueError("splits is an object: name → shards")
        data["splits"] = {name: tuple(Shard(**shard) for shard in shards) for name, shards in data["splits"].items()}
        return cls(**data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """Describes an opened dataset version: where it is and what its manifest says."""

    path: storage.Path
    manifest: Manifest

    def shard_paths(self, split: str) -> list[str]:
        """Lists the full paths of a split's shards, in order."""
        folder = storage.join(self.path, "")  # once: there may be many thousands
        return [folder + shard.name for shard in self.manifest.shards(split)]

    def read(self, split: str) -> Iterator[records.Record]:
        """Yields a split's records in file order; DataError naming the shard and the record if one is damaged."""
        for path in self.shard_paths(split):
            with storage.open_file(path) as file:
                try:
                    for payload in records.read_frames(file):
                        yield records.decode_example(payload)
                except records.RecordError as error:
                    raise DataError(f"{path}: {error}; `python -m pipeline.verify {self.path}` lists all") from error

    def label_counts(self, split: str) -> list[int]:
        """Counts the examples of each label in a split: as the builder did, or by reading all of its records."""
        file, labels = storage.join(self.path, STATISTICS_FILE), self.manifest.labels
        try:
            counted = json.loads(storage.read_text(file))["splits"][split]["labels"]
            counts = [int(counted.get(label, 0)) for label in labels]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            counts = []
        if sum(counts) == self.manifest.num_examples(split):
            return counts
        counts = [0] * len(labels)
        for record in self.read(split):
            counts[record.label] += 1
        return counts


def current_version(root: storage.Path) -> str | None:
    """Returns the version that `CURRENT` names, or None where nothing has been published yet.

    Raises:
      DataError: it names none.
    """
    file = storage.join(root, CURRENT_FILE)
    try:
        content = storage.read(file)
    except FileNotFoundError:
        return None
    version = content.decode("utf-8", "replace").strip()
    if not _VERSION.fullmatch(version):
        raise DataError(f"{file}: {version[:_SHOWN]!r} is no version; run the build's command again")
    return version


def open_dataset(path: storage.Path) -> DatasetVersion:
    """Opens a dataset root (its current version) or one version directory.

    Args:
      path: `DATA` or `DATA/versions/<version>`; local or gs://.

    Raises:
      UsageError: the path does not exist, or holds no published dataset.
      DataError: the pointer or the manifest is damaged, or a shard that it lists is absent.
    """
    root = os.fspath(path)
    if not storage.exists(root):
        raise UsageError(
            f"--data={root}: no such directory; build it with python -m beam_jobs.build_tfrecords."
            f"{kinds.nearest_sibling(root)}"
        )
    try:
        version = current_version(root)
    except NotADirectoryError as error:
        raise UsageError(f"{root}: not a dataset; {kinds.no_dataset(root)}") from error
    except PermissionError as error:
        if storage.is_remote(root):
            raise
        raise UsageError(f"{root}: cannot be read ({error.strerror}: {error.filename})") from error
    directory = storage.join(root, VERSIONS_DIR, version) if version else root
    file = storage.join(directory, MANIFEST_FILE)
    if not storage.exists(file):
        raise UsageError(f"{directory}: not a published dataset (no {MANIFEST_FILE}); {kinds.no_dataset(root)}")
    try:
        manifest = Manifest.from_json(storage.read_text(file))
    except (ValueError, TypeError) as error:
        reason = printable_line(str(error))[:_SHOWN]
        raise DataError(f"{file}: not a valid manifest ({reason}); run the build's command again") from error
    present = {entry.name for entry in storage.list_folder(directory)}
    for shards in manifest.splits.values():
        for shard in shards:
            if shard.name not in present:
                name = printable_line(shard.name)[:_SHOWN]
                raise DataError(
                    f"{directory}: its manifest lists {name}, which is absent; run the build's command again"
                )
    return DatasetVersion(path=directory, manifest=manifest)
