"""Gives every element of the graph its bytes: MessagePack of its fields in order, the same on every machine.

Equal elements have equal bytes, so they may be keys, be shuffled, published and read back. Who imports this file has
Beam use these coders.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from beam_jobs.elements import Copies, Cut, Finding, Group, Item, Listing, Plan, Reject, Row
from beam_jobs.packing import pack, unpack
from beam_jobs.shards import ShardReport
from beam_jobs.sources.folder import Folder
from pipeline.images.facts import ImageFacts
from pipeline.images.policy import Reject as Refusal
from pipeline.images.policy import RejectCode


def _item_fields(item: Item) -> tuple:
    return item.uri, item.label, item.split, item.stamp


def _item(fields: Iterable[Any]) -> Item:
    uri, label, split, stamp = fields
    return Item(uri=uri, label=label, split=split, stamp=stamp)


def by_uri(item: Item) -> tuple[str, bytes]:
    """Keys an item for a join, in which Beam would pickle other values than bytes. Item → (URI, item)."""
    return item.uri, pack(_item_fields(item))


def item_of(packed: bytes) -> Item:
    """Decodes what `by_uri` encoded."""
    return _item(unpack(packed))


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
