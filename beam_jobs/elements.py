"""Defines the values that pass from step to step of the build's graph; coders.py says which bytes stand for them.

An element is a value, never a place in a file that only one machine sees.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from beam_jobs.sources import SourceItem
from pipeline.format.packing import pack, unpack
from pipeline.images.facts import ImageFacts, facts_fields, facts_of
from pipeline.images.policy import Reject as Refusal
from pipeline.images.policy import RejectCode

Item = SourceItem  # an image that a source offers, without its bytes


def item_fields(item: Item) -> tuple:
    """Lists what `item_of` takes."""
    return item.uri, item.label, item.split, item.stamp


def item_of(fields: Iterable[Any]) -> Item:
    """Makes an item of its fields."""
    uri, label, split, stamp = fields
    return Item(uri=uri, label=label, split=split, stamp=stamp)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Sums up what was listed.

    Attributes:
      counts: (official split or None, label, images), sorted.
      fingerprint: sha256 (hex) over everything listed and the source's own fingerprint.
      key: names the input and the configuration: equal keys, equal datasets.
      published: the version that has this key already, or "".
      left_out: (kind of `LeftOutKind`, how many, the first few URIs), sorted; not part of the fingerprint.
    """

    counts: tuple[tuple[str | None, str, int], ...]
    fingerprint: str
    key: str
    published: str
    left_out: tuple[tuple[str, int, tuple[str, ...]], ...] = ()

    @property
    def total(self) -> int:
        return sum(count for *_, count in self.counts)

    @property
    def labels(self) -> list[str]:
        return sorted({label for _, label, _ in self.counts})

    @property
    def sizes(self) -> collections.Counter[str]:
        """Maps labels to their numbers of images."""
        counts: collections.Counter[str] = collections.Counter()
        for _, label, count in self.counts:
            counts[label] += count
        return counts

    @property
    def official(self) -> set[str]:
        return {split for split, *_ in self.counts if split}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Holds what inspection found in an image; kept beside the versions and within, so that it is decoded once.

    Attributes:
      uri: see `SourceItem`.
      stamp: see `SourceItem`; under another one the finding does not count.
      size: bytes of the source's file.
      result: the facts, or why the image is refused.
    """

    uri: str
    stamp: str
    size: int
    result: ImageFacts | Refusal


class Group(NamedTuple):
    """Names what an image's split is a function of: itself, or all that look like it.

    Attributes:
      name: digest of the pixels of one of them.
      stratum: the class for whose share they count.
      official: their official split, or None where the build chooses.
    """

    name: bytes
    stratum: str
    official: str | None


class Row:
    """Describes an accepted image; immutable.

    What inspection found is packed once and unpacked where a step asks for it: a row passes through a dozen steps, most
    of which look at its group or its digests only.
    """

    __slots__ = ("found", "group", "id", "packed", "pixels", "split")

    def __init__(self, *, item: Item, size: int, facts: ImageFacts, group: Group, split: str | None = None) -> None:
        """Makes a row.

        Args:
          item: where it comes from.
          size: bytes of the source's file.
          facts: what inspection found.
          group: what its split is a function of; at first the image by itself.
          split: where the build puts it; None until that is decided.
        """
        self.found: tuple[Item, int, ImageFacts] | None = (item, size, facts)
        self.packed = b""
        # The record's id: sha256 of the file's bytes, or of the raw pixels where there is no file.
        self.id: bytes = item.raw_id or bytes.fromhex(facts.sha256)
        # Digest of the upright pixels; equal for exact duplicates.
        self.pixels: bytes = bytes.fromhex(facts.pixel_sha256)
        self.group = group
        self.split = split

    @property
    def item(self) -> Item:
        return self._parts()[0]

    @property
    def size(self) -> int:
        return self._parts()[1]

    @property
    def facts(self) -> ImageFacts:
        return self._parts()[2]

    def grouped(self, group: Group) -> Row:
        """Returns the row in a group."""
        return self._with(group, self.split)

    def assigned(self, split: str) -> Row:
        """Returns the row in a split."""
        return self._with(self.group, split)

    def to_bytes(self) -> bytes:
        """Encodes the row; equal rows, equal bytes."""
        if not self.packed:
            item, size, facts = self._parts()
            sha256, _, *others = facts_fields(facts)
            # An engine holds a row several times: no digest stands in it twice.
            self.packed = pack((item_fields(item), size, b"" if sha256 == self.id else sha256, others))
        group = self.group
        name = b"" if group.name == self.pixels else group.name
        return pack((self.packed, self.id, self.pixels, name, group.stratum, group.official, self.split))

    @classmethod
    def from_bytes(cls, data: bytes) -> Row:
        """Decodes what `to_bytes` encoded."""
        row = cls.__new__(cls)
        row.packed, row.id, row.pixels, name, stratum, official, row.split = unpack(data)
        row.found = None
        row.group = Group(name or row.pixels, stratum, official)
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Row({self.item.uri!r}, group={self.group!r}, split={self.split!r})"

    def _parts(self) -> tuple[Item, int, ImageFacts]:
        if self.found is None:
            item, size, sha256, others = unpack(self.packed)
            self.found = item_of(item), size, facts_of((sha256 or self.id, self.pixels, *others))
        return self.found

    def _with(self, group: Group, split: str | None) -> Row:
        row = Row.__new__(Row)
        row.packed, row.found, row.id, row.pixels = self.packed, self.found, self.id, self.pixels
        row.group, row.split = group, split
        return row


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """Describes an image that is left out: a line of rejects.jsonl.

    Attributes:
      item: the image.
      code: the reason, of `RejectCode`.
      detail: a sentence for a person.
      size: bytes of the source's file; None where it could not be read, which may be otherwise next time.
      facts: what inspection found, where the image itself was acceptable.
    """

    item: Item
    code: str
    detail: str
    size: int | None = None
    facts: ImageFacts | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """Describes images that are copies of each other: a line of duplicates.jsonl, and the first few for the report."""

    line: str
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Says where a class is cut into splits, or why it cannot be; see `splits.Cuts`."""

    names: tuple[str, ...]
    bounds: tuple[int, ...]
    error: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Says what is to be written; made only when every image listed is accounted for.

    Attributes:
      version: that this build has claimed.
      total: number of images listed.
      fingerprint: of the listing.
      key: of the build.
      labels: class names, in order.
      label_order: what puts them in order, as `Manifest.label_order` says it.
      shards: split → number of shards.
      examples: split → label → number of images.
      rejects: reject code → number of images.
      left_out: see `Listing`.
      notes: what a person should know of the dataset, in sentences.
    """

    version: str
    total: int
    fingerprint: str
    key: str
    labels: tuple[str, ...]
    label_order: str
    shards: Mapping[str, int]
    examples: Mapping[str, Mapping[str, int]]
    rejects: Mapping[str, int]
    left_out: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def refused(self) -> int:
        return sum(self.rejects.values())


def alone(item: Item, size: int, facts: ImageFacts) -> Row:
    """Makes the row of an image that is, so far, a group by itself."""
    group = Group(name=bytes.fromhex(facts.pixel_sha256), stratum=item.label, official=item.split)
    return Row(item=item, size=size, facts=facts, group=group)


def outcome(item: Item, finding: Finding) -> Row | Reject:
    """Returns what an image is, by what inspection found."""
    result = finding.result
    if isinstance(result, ImageFacts):
        return alone(item, finding.size, result)
    return Reject(item=item, code=result.code.value, detail=result.detail, size=finding.size)


def refuse(row: Row, code: RejectCode, detail: str) -> Reject:
    """Leaves out an image that inspection accepted."""
    return Reject(item=row.item, code=code.value, detail=detail, size=row.size, facts=row.facts)
