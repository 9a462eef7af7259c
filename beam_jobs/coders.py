"""Gives every element of the graph its bytes: MessagePack of its fields in order, the same on every machine.

Equal elements have equal bytes, so they may be keys, be shuffled, published and read back. Who imports this file has
Beam use these coders.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from beam_jobs.elements import (
    Copies,
    Cut,
    Finding,
    Item,
    Listing,
    Plan,
    Reject,
    Row,
    item_fields,
    item_of,
)
from beam_jobs.shards import ShardReport
from beam_jobs.sources.folder import Folder
from beam_jobs.sources.left_out import LeftOut
from pipeline.format.packing import pack, unpack
from pipeline.images.facts import ImageFacts, facts_fields, facts_of
from pipeline.images.policy import Reject as Refusal
from pipeline.images.policy import RejectCode


def by_uri(item: Item) -> tuple[str, bytes]:
    """Keys an item for a join, in which Beam would pickle other values than bytes. Item → (URI, item)."""
    return item.uri, pack(item_fields(item))


def keyed_item(packed: bytes) -> Item:
    """Decodes what `by_uri` encoded."""
    return item_of(unpack(packed))


def finding_bytes(finding: Finding) -> bytes:
    """Encodes a finding; the inverse of `finding_of`."""
    result = finding.result
    if isinstance(result, ImageFacts):
        return pack((finding.uri, finding.stamp, finding.size, facts_fields(result)))
    return pack((finding.uri, finding.stamp, finding.size, (result.code.value, result.detail)))


def finding_of(data: bytes) -> Finding:
    """Decodes a finding. Raises ValueError or TypeError where this is none."""
    uri, stamp, size, fields = unpack(data)
    result: ImageFacts | Refusal
    if not isinstance(uri, str) or not isinstance(stamp, str):
        raise TypeError(f"a finding of {uri!r} with the stamp {stamp!r}")
    try:
        result = Refusal(code=RejectCode(fields[0]), detail=fields[1]) if len(fields) == 2 else facts_of(fields)
    except (AttributeError, KeyError) as error:  # what stands in place of digests or fields is something else
        raise TypeError(str(error)) from error
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


class LeftOutCoder(PlainCoder):
    """Encodes `LeftOut`."""

    kind = LeftOut


class ListingCoder(PlainCoder):
    """Encodes `Listing`."""

    kind = Listing


class CutCoder(PlainCoder):
    """Encodes `Cut`."""

    kind = Cut


class PlanCoder(PlainCoder):
    """Encodes `Plan`."""

    kind = Plan


class RowCoder(_Coder):
    """Encodes `Row`."""

    def encode(self, value: Row) -> bytes:
        return value.to_bytes()

    def decode(self, encoded: bytes) -> Row:
        return Row.from_bytes(encoded)

    def to_type_hint(self) -> type:
        return Row


class RejectCoder(_Coder):
    """Encodes `Reject`."""

    def encode(self, value: Reject) -> bytes:
        facts = value.facts and facts_fields(value.facts)
        return pack((item_fields(value.item), value.code, value.detail, value.size, facts))

    def decode(self, encoded: bytes) -> Reject:
        item, code, detail, size, facts = unpack(encoded)
        return Reject(item=item_of(item), code=code, detail=detail, size=size, facts=facts and facts_of(facts))

    def to_type_hint(self) -> type:
        return Reject


class CopiesCoder(_Coder):
    """Encodes `Copies`."""

    def encode(self, value: Copies) -> bytes:
        return pack((value.line, [item_fields(item) for item in value.items]))

    def decode(self, encoded: bytes) -> Copies:
        line, items = unpack(encoded)
        return Copies(line=line, items=tuple(map(item_of, items)))

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
    LeftOut: LeftOutCoder,
    Listing: ListingCoder,
    Cut: CutCoder,
    Plan: PlanCoder,
    Row: RowCoder,
    Reject: RejectCoder,
    Copies: CopiesCoder,
    ShardReport: ShardReportCoder,
}.items():
    beam.coders.registry.register_coder(_kind, _coder)
