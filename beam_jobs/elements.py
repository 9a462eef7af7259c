"""Defines the values that pass from step to step of the build's graph, and the bytes that stand for each of them.

An element is a value, never a place in a file that only one machine sees. Equal elements have equal bytes (MessagePack
of their fields in order), whatever the machine, so they may be keys, be shuffled, published and read back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import msgpack

from beam_jobs.shards import ShardReport
from beam_jobs.sources import SourceItem
from pipeline.images.facts import ImageFacts
from pipeline.images.policy import Reject as Refusal
from pipeline.images.policy import RejectCode

Item = SourceItem  # an image that a source offers, without its bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """Describes a folder of images below the input.

    Attributes:
      path: below the input, as the store spells it.
      label: class of its images.
      split: their official split, or None.
      parents: the real places of the folders above it, up to that of its class: a link back to one is not followed.
    """

    path: str
    label: str
    split: str | None
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Sums up what was listed.

    Attributes:
      counts: (official split or None, label, images), sorted.
      fingerprint: sha256 (hex) over everything listed and the source's own fingerprint.
      key: names the input and the configuration: equal keys, equal datasets.
      published: the version that has this key already, or "".
    """

    counts: tuple[tuple[str | None, str, int], ...]
    fingerprint: str
    key: str
    published: str

    @property
    def total(self) -> int:
        return sum(count for *_, count in self.counts)

    @property
    def labels(self) -> list[str]:
        return sorted({label for _, label, _ in self.counts})

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Names what an image's split is a function of: itself, or all that look like it.

    Attributes:
      name: digest of the pixels of one of them.
      stratum: the class for whose share they count.
      official: their official split, or None where the build chooses.
    """

    name: bytes
    stratum: str
    official: str | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Describes an accepted image.

    Attributes:
      item: where it comes from.
      size: bytes of the source's file.
      facts: what inspection found.
      group: what its split is a function of; at first the image by itself.
      split: where the build puts it; None until that is decided.
    """

    item: Item
    size: int
    facts: ImageFacts
    group: Group
    split: str | None = None

    @property
    def id(self) -> bytes:
        """Returns the record's id: sha256 of the file's bytes, or of the raw pixels where there is no file."""
        return self.item.raw_id or bytes.fromhex(self.facts.sha256)

    @property
    def pixels(self) -> bytes:
        """Returns the digest of the upright pixels; equal for exact duplicates."""
        return bytes.fromhex(self.facts.pixel_sha256)


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
      version: that this build has claimed, "" where there is nothing to do.
      total: number of images listed.
      fingerprint: of the listing.
      key: of the build.
      labels: class names, in order.
      shards: split → number of shards.
      examples: split → label → number of images.
      rejects: reject code → number of images.
    """

    version: str
    total: int
    fingerprint: str
    key: str
    labels: tuple[str, ...]
    shards: Mapping[str, int]
    examples: Mapping[str, Mapping[str, int]]
    rejects: Mapping[str, int]

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


def refuse(row: Row, code: str, detail: str) -> Reject:
    """Leaves out an image that inspection accepted."""
    return Reject(item=row.item, code=code, detail=detail, size=row.size, facts=row.facts)


def pack(fields: Any) -> bytes:
    """Encodes text, numbers, bytes, None, lists and mappings; names in bytes that are no UTF-8 keep them."""
    data: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    return data


def unpack(data: bytes) -> Any:
    """Decodes what `pack` encoded; lists come as tuples."""
    return msgpack.unpackb(data, use_list=False, unicode_errors="surrogateescape", strict_map_key=False)


def _item_fields(item: Item) -> tuple:
    return item.uri, item.label, item.split, item.stamp


def _item(fields: Iterable[Any]) -> Item:
    uri, label, split, stamp = fields
    return Item(uri=uri, label=label, split=split, stamp=stamp)


def _facts_fields(facts: ImageFacts | None) -> tuple | None:
    if facts is None:
        return None
    digests = bytes.fromhex(facts.sha256), bytes.fromhex(facts.pixel_sha256)
    shape = facts.height, facts.width, facts.channels
    return *digests, *shape, facts.format, facts.keeps_bytes, facts.perceptual_hash, facts.brightness, facts.sharpness


def _facts(fields: Iterable[Any]) -> ImageFacts:
    sha256, pixels, height, width, channels, form, keeps_bytes, perceptual_hash, brightness, sharpness = fields
    return ImageFacts(
        sha256=sha256.hex(),
        pixel_sha256=pixels.hex(),
        height=height,
        width=width,
        channels=channels,
        format=form,
        keeps_bytes=keeps_bytes,
        perceptual_hash=perceptual_hash,
        brightness=brightness,
        sharpness=sharpness,
    )


def finding_bytes(finding: Finding) -> bytes:
    """Encodes a finding; the inverse of `finding_of`."""
    result = finding.result
    if isinstance(result, ImageFacts):
        return pack((finding.uri, finding.stamp, finding.size, _facts_fields(result)))
    return pack((finding.uri, finding.stamp, finding.size, (result.code.value, result.detail)))


def finding_of(data: bytes) -> Finding:
    """Decodes a finding. Raises ValueError or TypeError where this is none."""
    uri, stamp, size, fields = unpack(data)
    result: ImageFacts | Refusal
    if len(fields) == 2:
        result = Refusal(code=RejectCode(fields[0]), detail=fields[1])
    else:
        result = _facts(fields)
    return Finding(uri=uri, stamp=stamp, size=size, result=result)


class _Coder(beam.coders.Coder):
    """Encodes elements of one type. Deterministic: equal elements, equal bytes."""

    def is_deterministic(self) -> bool:
        return True


class PlainCoder(_Coder):
    """Encodes dataclasses whose fields `pack` knows."""

    kind: type

    def encode(self, value: Any) -> bytes:
        return pack([getattr(value, field) for field in self.kind.__slots__])  # type: ignore[attr-defined]

    def decode(self, encoded: bytes) -> Any:
        return self.kind(**dict(zip(self.kind.__slots__, unpack(encoded), strict=True)))  # type: ignore[attr-defined]

    def to_type_hint(self) -> type:
        return self.kind


class ItemCoder(PlainCoder):
    """Encodes `Item`."""

    kind = Item


class FolderCoder(PlainCoder):
    """Encodes `Folder`."""

    kind = Folder


class ListingCoder(PlainCoder):
    """Encodes `Listing`."""

    kind = Listing


class CutCoder(PlainCoder):
    """Encodes `Cut`."""

    kind = Cut


class PlanCoder(PlainCoder):
    """Encodes `Plan`."""

    kind = Plan


class FindingCoder(_Coder):
    """Encodes `Finding`."""

    def encode(self, value: Finding) -> bytes:
        return finding_bytes(value)

    def decode(self, encoded: bytes) -> Finding:
        return finding_of(encoded)

    def to_type_hint(self) -> type:
        return Finding


class RowCoder(_Coder):
    """Encodes `Row`."""

    def encode(self, value: Row) -> bytes:
        group = value.group
        named = group.name, group.stratum, group.official
        return pack((_item_fields(value.item), value.size, _facts_fields(value.facts), named, value.split))

    def decode(self, encoded: bytes) -> Row:
        item, size, facts, (name, stratum, official), split = unpack(encoded)
        group = Group(name=name, stratum=stratum, official=official)
        return Row(item=_item(item), size=size, facts=_facts(facts), group=group, split=split)

    def to_type_hint(self) -> type:
        return Row


class RejectCoder(_Coder):
    """Encodes `Reject`."""

    def encode(self, value: Reject) -> bytes:
        return pack((_item_fields(value.item), value.code, value.detail, value.size, _facts_fields(value.facts)))

    def decode(self, encoded: bytes) -> Reject:
        item, code, detail, size, facts = unpack(encoded)
        return Reject(item=_item(item), code=code, detail=detail, size=size, facts=facts and _facts(facts))

    def to_type_hint(self) -> type:
        return Reject


class CopiesCoder(_Coder):
    """Encodes `Copies`."""

    def encode(self, value: Copies) -> bytes:
        return pack((value.line, [_item_fields(item) for item in value.items]))

    def decode(self, encoded: bytes) -> Copies:
        line, items = unpack(encoded)
        return Copies(line=line, items=tuple(map(_item, items)))

    def to_type_hint(self) -> type:
        return Copies


class ShardReportCoder(_Coder):
    """Encodes `ShardReport`."""

    def encode(self, value: ShardReport) -> bytes:
        return value.to_json().encode()

    def decode(self, encoded: bytes) -> ShardReport:
        return ShardReport.from_json(encoded.decode())

    def to_type_hint(self) -> type:
        return ShardReport


for _kind, _coder in {
    Item: ItemCoder,
    Folder: FolderCoder,
    Listing: ListingCoder,
    Cut: CutCoder,
    Plan: PlanCoder,
    Finding: FindingCoder,
    Row: RowCoder,
    Reject: RejectCoder,
    Copies: CopiesCoder,
    ShardReport: ShardReportCoder,
}.items():
    beam.coders.registry.register_coder(_kind, _coder)
