"""Finds images that look alike in the graph, in partitions that grow in number with the images.

Row → sketch (16 bytes of id, 72 of hash) → partition → similar pairs → components. While the images are few, a
partition is some of the search's bands over all of them. From `images_per_search` times as many on as there are bands,
it is a part of one band's buckets: a sketch goes to each part in which it stands or looks for partners, so every pair
that shares a bucket meets. There, the places of all sketches in one order are counted first, because a search in a
crowded bucket begins where the image's place says (lsh.py). The pairs found are the same, however they are partitioned.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from beam_jobs.bundles import late
from beam_jobs.duplicates import lsh
from beam_jobs.duplicates.alike import COMPONENT, find_components
from beam_jobs.elements import Listing, Row
from pipeline.format.packing import pack, unpack

_BLOCK = 512  # sketches that travel together
_PREFIX = 3  # bytes of the hash by which sketches are put in order
_IMAGES_PER_SEARCHER = 250_000  # each sketch goes to every searcher, of which each takes some 160 bytes an image
_MAX_BITS = 14
_PLACED = np.dtype([("sketch", lsh.SKETCH), ("place", np.uint64)])

Key = tuple[int, int, int, int]  # first band, step to the next one, bits and number of the part


def sketch_id(row: Row) -> bytes:
    """Names the row for the search: enough of the digest of its pixels, which no other row has any more."""
    return row.pixels[: lsh.ID_BYTES]


def part_bits(images: int, *, images_per_search: int) -> int:
    """Counts the bits of the parts that each band is divided into: 0 while there are few images."""
    parts = -(-images // (images_per_search * lsh.BANDS))
    return min(_MAX_BITS, (parts * lsh.BANDS - 1).bit_length()) if parts > 1 else 0


def searches(images: int) -> int:
    """Counts the searches that share the bands while there are few images."""
    return min(lsh.BANDS, 2 + images // _IMAGES_PER_SEARCHER)


class Share(beam.DoFn):
    """Shares sketches out to searches.

    Row → (partition, block) while there are few images; next to uniform ones have no hash and come nowhere. Tagged
    `many`: (beginning of the hash, sketch), and `counts`: beginnings of hashes with their numbers.
    """

    def __init__(self, images_per_search: int) -> None:
        self._images_per_search = images_per_search

    def start_bundle(self) -> None:
        self._block: list[bytes] = []
        self._images, self._many, self._searches = 0, False, 0
        self._counts: collections.Counter[bytes] = collections.Counter()

    def process(self, row: Row, listing: Listing) -> Iterator[Any]:
        if not row.facts.perceptual_hash:
            return
        sketch = row.facts.perceptual_hash + sketch_id(row)
        if not self._images:
            self._images = listing.total
            self._many = part_bits(self._images, images_per_search=self._images_per_search) > 0
            self._searches = searches(self._images)
        if self._many:
            self._counts[sketch[:_PREFIX]] += 1
            yield beam.pvalue.TaggedOutput("many", (sketch[:_PREFIX], sketch))
            return
        self._block.append(sketch)
        if len(self._block) == _BLOCK:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(late, self._flush())
        if self._counts:
            yield late(beam.pvalue.TaggedOutput("counts", pack(sorted(self._counts.items()))))

    def _flush(self) -> Iterator[tuple[Key, bytes]]:
        if self._block:
            places = np.zeros(len(self._block), _PLACED)
            places["sketch"] = np.frombuffer(b"".join(self._block), lsh.SKETCH)
            self._block = []
            for first in range(self._searches):
                yield (first, self._searches, 0, 0), places.tobytes()


def first_places(several: Iterable[bytes]) -> dict[bytes, int]:
    """Turns the `counts` of bundles into the first place of each beginning of a hash, in one order of all."""
    counts: collections.Counter[bytes] = collections.Counter()
    for packed in several:
        counts.update(dict(unpack(packed)))
    ordered = sorted(counts.items())
    totals = itertools.accumulate((count for _, count in ordered), initial=0)
    return {prefix: first for (prefix, _), first in zip(ordered, totals, strict=False)}


class Place(beam.DoFn):
    """Gives sketches their places and sends them where they are looked for.

    (beginning of the hash, sketches) → (partition, block of sketches with places).
    """

    def __init__(self, images_per_search: int) -> None:
        self._images_per_search = images_per_search

    def start_bundle(self) -> None:
        self._first: dict[bytes, int] = {}

    def process(
        self, element: tuple[bytes, Iterable[bytes]], counts: Iterable[bytes], listing: Listing
    ) -> Iterator[tuple[Key, bytes]]:
        prefix, sketches = element
        ordered = sorted(sketches)
        bits = part_bits(listing.total, images_per_search=self._images_per_search)
        first = self._first = self._first or first_places(counts)
        for at in range(0, len(ordered), _BLOCK):
            block = np.zeros(len(ordered[at : at + _BLOCK]), _PLACED)
            block["sketch"] = np.frombuffer(b"".join(ordered[at : at + _BLOCK]), lsh.SKETCH)
            block["place"] = first[prefix] + at + np.arange(len(block))
            parts = lsh.parts_of(block["sketch"], bits)
            for band in range(lsh.BANDS):
                for part in np.unique(parts[:, band]).tolist():
                    concerned = (parts[:, band] == part).any(axis=1)
                    yield (band, lsh.BANDS, bits, part), block[concerned].tobytes()


def search(element: tuple[Key, Iterable[bytes]]) -> tuple[None, bytes]:
    """Searches a partition. (partition, blocks) → (None, bytes of its similar pairs)."""
    (first, step, bits, number), blocks = element
    placed = np.frombuffer(bytearray().join(blocks), _PLACED)
    part, bands = lsh.Part(bits=bits, number=number), range(first, lsh.BANDS, step)
    places = placed["place"] if bits else None
    return None, lsh.similar(np.ascontiguousarray(placed["sketch"]), bands, part=part, places=places).tobytes()


def components(element: tuple[None, Iterable[bytes]]) -> bytes:
    """Finds the components of all pairs, from the pairs alone. (None, pairs) → COMPONENT array, sorted by id."""
    return find_components(np.frombuffer(b"".join(element[1]), lsh.EDGE)).tobytes()


class Members:
    """Looks up components by ids; takes 8 bytes a component's member beside what it is given."""

    def __init__(self, found: bytes) -> None:
        self._table = np.frombuffer(found, COMPONENT)
        # The ids' beginnings as numbers, in the order of the ids: NumPy looks those up without a copy of all.
        self._beginnings = np.ndarray(len(self._table), ">u8", found, strides=(COMPONENT.itemsize,)).astype(np.uint64)

    def find(self, item: bytes) -> tuple[bytes, bytes] | None:
        """Returns an id's component and picture, or None."""
        at = int(self._beginnings.searchsorted(np.uint64(int.from_bytes(item[:8], "big"))))
        while at < len(self._table) and item[:8] == (entry := self._table[at].tobytes())[:8]:
            if entry[: lsh.ID_BYTES] == item:
                return entry[lsh.ID_BYTES : 2 * lsh.ID_BYTES], entry[2 * lsh.ID_BYTES :]
            at += 1
        return None


class PartAlike(beam.DoFn):
    """Separates the images that look like others. Row → row; tagged `alike`: (component, (row, picture))."""

    def start_bundle(self) -> None:
        self._read: tuple[bytes, Members] | None = None

    def process(self, row: Row, found: bytes) -> Iterator[Any]:
        if self._read is None or self._read[0] is not found:
            self._read = found, Members(found)
        place = self._read[1].find(sketch_id(row))
        if place is None:
            yield row
        else:
            component, picture = place
            yield beam.pvalue.TaggedOutput("alike", (component, (row, picture)))


def similar_images(
    rows: beam.PCollection[Row], listing: beam.PCollection[Listing], *, images_per_search: int
) -> beam.pvalue.DoOutputsTuple:
    """Adds the search: outputs `alone`, rows that look like no other, and `alike`: (component, (row, picture))."""
    one, block = beam.pvalue.AsSingleton(listing), tuple[Key, bytes]
    sketches = rows | "Share" >> beam.ParDo(Share(images_per_search), one).with_output_types(
        block, many=tuple[bytes, bytes], counts=bytes
    ).with_outputs("many", "counts", main="few")
    placed = (
        sketches.many
        | "GroupByPrefix" >> beam.GroupByKey()
        | "Place"
        >> beam.ParDo(Place(images_per_search), beam.pvalue.AsList(sketches.counts), one).with_output_types(block)
    )
    found = (
        (sketches.few, placed)
        | "AllSketches" >> beam.Flatten()
        | "GroupByPartition" >> beam.GroupByKey()
        | "Search" >> beam.Map(search).with_output_types(tuple[None, bytes])
        | "GatherPairs" >> beam.GroupByKey()
        | "Components" >> beam.Map(components).with_output_types(bytes)
    )
    return rows | "PartAlike" >> beam.ParDo(
        PartAlike(), beam.pvalue.AsSingleton(found, default_value=b"")
    ).with_output_types(Row, alike=tuple[bytes, tuple[Row, bytes]]).with_outputs("alike", main="alone")
