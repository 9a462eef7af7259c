"""Defines the unit that the build shuffles: what it knows of one accepted image, never the image itself.

Rows travel in packed blocks. Local Beam runners hold every shuffled element as Python objects in the launcher's memory;
a block of thousands of rows in one `bytes` costs a tenth of that and hardly any time.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import NamedTuple

from beam_jobs.sources import SourceItem
from beam_jobs.spool import Block, Place, content
from pipeline.images.policy import RejectCode

Digest = bytes  # in `Row` the name `bytes` is a field


class Row(NamedTuple):
    """Describes an accepted image.

    Attributes:
      id: sha256 of the source bytes or, where there is no file, of the raw pixels (`SourceItem.raw_id`); raw.
      pixels: digest of the decoded upright pixels, raw; equal for exact duplicates.
      perceptual_hash: for near duplicates.
      uri: see `SourceItem`.
      label: class name.
      official: the source's own split, or None.
      stamp: see `SourceItem`.
      split: where the build puts it; None until that is decided.
      height: of the record's image, pixels.
      width: of the record's image, pixels.
      channels: 1 or 3.
      format: source format.
      bytes: size of the source file.
      keeps_bytes: whether the record's image is the source file as it stands.
      brightness: 0 to 1.
      sharpness: see `ImageFacts`.
      group: what the split is a function of; empty for the image by itself (`split_group`).
      stratum: the class that the group counts for in a stratified split; empty for its label (`split_stratum`).
      image: where in the spool the record's image is, if this build's inspection encoded it.
    """

    id: bytes
    pixels: bytes
    perceptual_hash: bytes
    uri: str
    label: str
    official: str | None
    stamp: str
    split: str | None
    height: int
    width: int
    channels: int
    format: str
    bytes: int
    keeps_bytes: bool
    brightness: float
    sharpness: float
    group: Digest = b""
    stratum: str = ""
    image: Place | None = None

    def item(self) -> SourceItem:
        """Returns the source item that the row came from."""
        return SourceItem(uri=self.uri, label=self.label, split=self.official, stamp=self.stamp)


def split_group(row: Row) -> bytes:
    """Names the row's duplicate group, of which its split is a function."""
    return row.group or row.pixels


def split_stratum(row: Row) -> str:
    """Names the class whose share the row's group counts for."""
    return row.stratum or row.label


class RejectRow(NamedTuple):
    """Describes an image that is left out: a line of rejects.jsonl."""

    uri: str
    label: str
    code: str
    detail: str

    @classmethod
    def make(cls, item: SourceItem | Row, code: RejectCode, detail: str) -> RejectRow:
        return cls(uri=item.uri, label=item.label, code=code.value, detail=detail)


def pack(rows: Iterable[tuple]) -> bytes:
    """Packs named tuples into one block; see `unpack`."""
    return pickle.dumps([tuple(row) for row in rows], protocol=5)


def unpack(block: Block) -> list[Row]:
    """Unpacks the rows of a block made by `pack`, in a spool or not."""
    return [Row._make(fields) for fields in pickle.loads(content(block))]


def unpack_rejects(block: Block) -> list[RejectRow]:
    """Unpacks the rejects of a block made by `pack`, in a spool or not."""
    return [RejectRow._make(fields) for fields in pickle.loads(content(block))]
