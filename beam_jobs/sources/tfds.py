"""Implements `--source=tfds:NAME[/CONFIG][:VERSION]`: any image classification set of TensorFlow Datasets.

A prepared set is read as it lies on disk, without TensorFlow: TFDS says where the shards and what the features are, and
an image is found by its shard and offset. A set that is not there is downloaded and prepared by TFDS, in the launcher.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from beam_jobs.sources import SourceItem
from beam_jobs.sources.left_out import LeftOut, LeftOutKind
from beam_jobs.sources.split_names import split_of
from pipeline.command import DataError, UsageError, nearest
from pipeline.format.records import FRAME_BYTES, Buffer, RecordError, read_features, read_frames
from pipeline.format.storage import is_remote
from pipeline.images.policy import ReadError, RejectCode

_SPEC = re.compile(r"(?P<name>[a-z]\w*)(/[\w.+-]+)?(:\d+\.\d+\.\d+)?")
_SPLITS = ("train", "validation", "test")
_LENGTH = struct.Struct("<Q")
_FOOTER_BYTES = 4
_HEADER_BYTES = FRAME_BYTES - _FOOTER_BYTES


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Describes a prepared set.

    Attributes:
      name: `name/config/version`.
      directory: where its files are.
      shards: split → file names.
      image: name of the image's feature.
      label: name of the label's feature.
      labels: class names.
    """

    name: str
    directory: str
    shards: Mapping[str, list[str]]
    image: str
    label: str
    labels: list[str]


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _open_builder(spec: str, data_dir: str | None, *, dry_run: bool) -> Any:
    """Opens TFDS's builder for a name or a directory; downloads and prepares what is not there."""
    # A second to import, and only the launcher needs it.
    import tensorflow_datasets as tfds

    if os.path.isdir(spec):
        try:
            return tfds.builder_from_directory(spec)
        except Exception as error:  # TFDS raises many types
            raise UsageError(f"{spec}: no prepared TFDS set (dataset_info.json, features.json): {error}") from error
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f'"{spec}" is neither a TFDS name, NAME[/CONFIG][:VERSION], nor the folder of a prepared set')
    try:
        builder = tfds.builder(spec, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UsageError(f'TFDS has no set "{match["name"]}".{nearest(match["name"], tfds.list_builders())}') from None
    except (ValueError, AssertionError) as error:
        raise UsageError(f"tfds:{spec}: {error}") from error
    if not builder.is_prepared():
        if dry_run:
            raise UsageError(f"tfds:{spec}: not in {builder.data_path}; without --dry_run TFDS downloads it")
        _note(f"TFDS downloads and prepares {builder.info.full_name} in {builder.data_path}")
        try:
            builder.download_and_prepare(file_format="tfrecord")
        except Exception as error:  # whatever the set's own code and its servers come up with
            raise DataError(f"tfds:{spec}: TFDS could not prepare it: {type(error).__name__}: {error}") from error
    return builder


def _features(info: Any) -> tuple[str, str, list[str]]:
    """Finds the names of the image's and the label's feature, and the class names.

    Raises:
      UsageError: it is no image classification set.
    """
    import tensorflow_datasets as tfds

    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    chosen = {}
    supervised = info.supervised_keys or ()
    for position, (what, kind) in enumerate(kinds.items()):
        fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
        preferred = [name for name in supervised[position : position + 1] if name in fitting]
        if len(preferred or fitting) != 1:
            raise UsageError(
                f"tfds:{info.full_name} is no image classification set: it has {len(fitting)} features of type "
                f"{kind.__name__}, the {what} must be one (features: {', '.join(map(str, features))})"
            )
        chosen[what] = (preferred or fitting)[0]
    image = features[chosen["image"]]
    dtype = np.dtype(image.np_dtype)
    if dtype != np.uint8:
        raise UsageError(f"tfds:{info.full_name}: its images are {dtype}, only uint8 is supported")
    return chosen["image"], chosen["label"], list(features[chosen["label"]].names)


def _prepare(spec: str, data_dir: str | None, *, dry_run: bool) -> _Prepared:
    builder = _open_builder(spec, data_dir, dry_run=dry_run)
    info = builder.info
    if info.file_format.value != "tfrecord":
        raise UsageError(
            f"tfds:{info.full_name} is stored as {info.file_format.value}; make TFRecords of it: "
            f"tfds convert_format --dataset_version_dir={builder.data_path} --out_file_format=tfrecord --out_dir=DIR, "
            "then give --input=DIR"
        )
    if is_remote(str(builder.data_path)):
        raise UsageError(f"tfds:{info.full_name} is in {builder.data_path}; copy it to a local --tfds_data_dir first")
    image, label, labels = _features(info)
    shards = {
        name: [os.path.basename(str(path)) for path in split.filepaths]
        for name, split in info.splits.items()
        if split.num_examples
    }
    return _Prepared(
        name=info.full_name,
        directory=str(builder.data_path),
        shards=shards,
        image=image,
        label=label,
        labels=labels,
    )


def _frames(path: str) -> Iterator[tuple[int, Buffer, str]]:
    """Yields (offset, serialized example, checksum) of a shard's records.

    The examples are views of the mapped file: whoever reads only the label never touches the image's bytes. Their
    checksums are verified when the images are read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        # Closed when the last view is gone, which an exception may keep for a while.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    at = 0
    while at < size:
        length = _LENGTH.unpack_from(view, at)[0] if at + _HEADER_BYTES <= size else size
        end = at + length + FRAME_BYTES
        if end > size:
            raise RecordError(f"truncated at byte {at}")
        yield at, view[at + _HEADER_BYTES : end - _FOOTER_BYTES], view[end - _FOOTER_BYTES : end].hex()
        at = end


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Offers the images of a set of TensorFlow Datasets.

    Attributes:
      path: the value of --input: NAME[/CONFIG][:VERSION], or the folder of a prepared version; "" if options["spec"]
        says it.
      options: `spec`, what follows `--source=tfds:`; `tfds_data_dir`, where prepared sets are ("": TFDS's default);
        `dry_run`, if present, to download nothing.
    """

    path: str
    options: Mapping[str, str]

    needs: ClassVar[tuple[str, ...]] = ("spec", "tfds_data_dir", "dry_run")

    @functools.cached_property
    def _prepared(self) -> _Prepared:
        return _prepare(
            self.options.get("spec") or self.path,
            self.options.get("tfds_data_dir") or None,
            dry_run="dry_run" in self.options,
        )

    def _official(self) -> dict[str, str | None]:
        """Maps TFDS's splits to ours; a single split is no official division: the build divides it."""
        name, names = self._prepared.name, list(self._prepared.shards)
        if len(names) == 1:
            return {names[0]: None}
        known: dict[str, str] = {}
        # Ours first: beside a `train`, a `training` or `train_set` is something else.
        for split in sorted(names, key=lambda split: split not in _SPLITS):
            ours = split_of(split)
            if ours is not None and ours not in known.values():
                known[split] = ours
        if not known:
            raise UsageError(f"tfds:{name}: none of its splits ({', '.join(names)}) is {_SPLITS}")
        return {split: known[split] for split in names if split in known}

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`."""
        return (listed for listed in self.listing() if isinstance(listed, SourceItem))

    def listing(self) -> Iterator[SourceItem | LeftOut]:
        """Implements `ListingSource.listing`.

        Left out are images without a label (-1, as in the test splits of competitions), and splits with names of their
        own.
        """
        prepared = self._prepared
        splits = self._official()
        for split in sorted(set(prepared.shards) - set(splits)):
            yield LeftOut(kind=LeftOutKind.OTHER_SPLIT.value, uri=f"tfds://{prepared.name}/{split}")
        for split, official in splits.items():
            for shard in prepared.shards[split]:
                path = os.path.join(prepared.directory, shard)
                try:
                    for offset, example, checksum in _frames(path):
                        label = read_features(example, (prepared.label,)).get(prepared.label)
                        if not isinstance(label, int):
                            raise RecordError(f'no number "{prepared.label}" at byte {offset}')
                        uri = f"tfds://{prepared.name}/{shard}@{offset}"
                        if label >= 1 << 63:  # a negative int64
                            yield LeftOut(kind=LeftOutKind.UNLABELLED.value, uri=uri)
                            continue
                        if label >= len(prepared.labels):
                            raise RecordError(f"label {label} at byte {offset}, of {len(prepared.labels)} classes")
                        yield SourceItem(
                            uri=uri,
                            label=prepared.labels[label],
                            split=official,
                            stamp=checksum,
                        )
                except (OSError, RecordError) as error:
                    raise DataError(f"{path}: {error}; prepare the set again") from error

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`: the encoded image as the shard holds it, its checksum verified."""
        prepared = self._prepared
        shard, _, offset = item.uri.removeprefix(f"tfds://{prepared.name}/").partition("@")
        try:
            with open(os.path.join(prepared.directory, shard), "rb") as file:
                file.seek(int(offset))
                image = read_features(next(read_frames(file)), (prepared.image,)).get(prepared.image)
        except (OSError, RecordError, StopIteration) as error:
            raise ReadError(RejectCode.UNREADABLE, str(error)) from error
        if not isinstance(image, bytes):
            raise ReadError(RejectCode.UNREADABLE, f'no bytes "{prepared.image}" in the record')
        return image

    def labels(self) -> list[str]:
        """Lists the class names in TFDS's order."""
        return self._prepared.labels

    def fingerprint(self) -> str:
        """Names the set, its version and its classes."""
        return f"tfds:{self._prepared.name}:{','.join(self._prepared.labels)}"
