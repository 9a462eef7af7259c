"""Reads what a build knows of a version's images (`rows-*.parquet`) and what two versions differ in.

Free of TensorFlow and of Beam.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from pipeline.command import CommandError, DataError
from pipeline.format import storage
from pipeline.format.manifest import VERSIONS_DIR, DatasetVersion, open_dataset
from pipeline.format.parquet import parquet_source

RAW_PIXELS = "pixels:"  # begins the stamp of an image without a file: the sha256 of its raw pixels follows, its id
FACTS = ("brightness", "sharpness", "area", "aspect", "bytes_per_pixel")
_TOLD = ("brightness", "sharpness", "height", "width", "bytes")  # by tables


def is_table(name: str, splits: Sequence[str] = ("",)) -> bool:
    """Says whether a file of a version is one of its tables, of certain splits if they are given."""
    return name.startswith(tuple(f"rows-{split}" for split in splits)) and name.endswith(".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownImages:
    """Holds what is known of the images of a version, one column each, in no order.

    Attributes:
      ids: of the records, hex.
      sources: of the records.
      labels: names.
      splits: names.
      groups: digests, equal for images that look alike; b"" where no table says it.
      facts: name in `FACTS` → float64 [N]: brightness and sharpness as `ImageFacts` has them, area in pixels, aspect as
        width by height, bytes of the source file a pixel; NaN where it is not known.
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[bytes, ...]
    facts: Mapping[str, np.ndarray]


def known_images(data: DatasetVersion, *, split: str | None = None) -> KnownImages:
    """Reads what is known of images of a version: from its tables, or where it has none from its records.

    Args:
      data: the version.
      split: name of the only split that is wanted, where there is one; None for all of them.

    Raises:
      DataError: a table or a shard is damaged.
    """
    splits = tuple(one for one in data.manifest.splits if split in (None, one))
    examples = sum(data.manifest.num_examples(one) for one in splits)
    found = _of_tables(data, splits)
    # A copy without damaged records has tables of more images than are left.
    return found if found and len(found.ids) == examples else _of_records(data, splits)


def _of_tables(data: DatasetVersion, splits: Sequence[str]) -> KnownImages | None:
    import pyarrow as pa  # not above: it takes 40 MB
    import pyarrow.parquet as pq

    names = sorted(entry.name for entry in storage.list_folder(data.path) if is_table(entry.name, splits))
    columns: dict[str, list] = {name: [] for name in ("uri", "label", "split", "group", "stamp", "sha256", *_TOLD)}
    for name in names:
        file = storage.join(data.path, name)
        try:
            table = pq.read_table(
                parquet_source(storage.read(file)), columns=list(columns), filters=[("split", "in", splits)]
            )
        except (ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{file}: damaged ({error}); run the build's command again with --repair") from error
        for column in columns:
            columns[column] += table.column(column).to_pylist()
    if not names:
        return None
    return KnownImages(
        ids=tuple(map(_id, columns["stamp"], columns["sha256"])),
        sources=tuple(columns["uri"]),
        labels=tuple(columns["label"]),
        splits=tuple(columns["split"]),
        groups=tuple(columns["group"]),
        facts=comparable_facts({name: np.array(columns[name], np.float64) for name in _TOLD}),
    )


def _id(stamp: str, sha256: bytes) -> str:
    return stamp.removeprefix(RAW_PIXELS) if stamp.startswith(RAW_PIXELS) else sha256.hex()


def comparable_facts(told: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what images are compared by (`FACTS`, see `KnownImages.facts`).

    Args:
      told: brightness, sharpness, height, width and bytes, float64 [N] each.
    """
    area = told["height"] * told["width"]
    return {
        "brightness": told["brightness"],
        "sharpness": told["sharpness"],
        "area": area,
        "aspect": told["width"] / told["height"],
        "bytes_per_pixel": told["bytes"] / area,
    }


def _of_records(data: DatasetVersion, splits: Sequence[str]) -> KnownImages:
    found = [(record, split) for split in splits for record in data.read(split)]
    told = {name: np.full(len(found), np.nan) for name in _TOLD}
    told["height"], told["width"] = np.array([(one.height, one.width) for one, _ in found], np.float64).reshape(-1, 2).T
    return KnownImages(
        ids=tuple(record.id for record, _ in found),
        sources=tuple(record.source for record, _ in found),
        labels=tuple(data.manifest.labels[record.label] for record, _ in found),
        splits=tuple(split for _, split in found),
        groups=(b"",) * len(found),
        facts=comparable_facts(told),
    )


def _root_and_version(path: storage.Path) -> tuple[str, str]:
    """Splits the folder of a version into the root of its dataset and the version's name; "" as the name of a root."""
    versions, name = os.path.split(os.fspath(path).rstrip("/"))
    return (os.path.dirname(versions), name) if os.path.basename(versions) == VERSIONS_DIR else (os.fspath(path), "")


def dataset_root(path: storage.Path) -> str:
    """Returns the root of a dataset, where builds go, of the root itself or of the folder of one of its versions."""
    return _root_and_version(path)[0] or os.curdir


def checks_folder(data: DatasetVersion) -> str:
    """Returns the folder in which what is known of a version lies beside it: DATA/checks/<version>."""
    root, name = _root_and_version(data.path)
    return storage.join(root, "checks", name) if name else storage.join(root, "checks")


def version_before(data: DatasetVersion) -> DatasetVersion | None:
    """Opens the version before this one in its dataset root; None where there is none, or none that is whole."""
    root, name = _root_and_version(data.path)
    if not name:
        return None
    versions = storage.join(root, VERSIONS_DIR)
    numbered = {entry.name: version_number(entry.name) for entry in storage.list_folder(versions)}
    before = [of for of in numbered if numbered[of] and numbered[of] < version_number(name)]
    if not before:
        return None
    latest = max(before, key=lambda of: numbered[of])
    try:
        return open_dataset(storage.join(versions, latest))
    except CommandError as error:
        logging.warning("%s is not compared: %s", latest, error)
        return None


def version_number(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version's name, () of what is none."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """Says what two versions differ in, by the ids of their images, sorted.

    Attributes:
      added: in the later one only.
      removed: in the earlier one only.
      relabelled: of another label in the later one.
      moved: in another split in the later one.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    moved: tuple[str, ...]


def changes_between(before: KnownImages, after: KnownImages) -> Changes:
    """Compares two versions image by image: the same id, the same content."""
    old, new = (
        {image: (label, split) for image, label, split in zip(of.ids, of.labels, of.splits, strict=True)}
        for of in (before, after)
    )
    both = sorted(old.keys() & new.keys())
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        relabelled=tuple(image for image in both if old[image][0] != new[image][0]),
        moved=tuple(image for image in both if old[image][1] != new[image][1]),
    )
