"""Finds images that look alike in the graph, in partitions that grow in number with the images.

Row → sketch (16 bytes of id, 72 of hash) → partition → similar pairs → components. While the images are few, a
partition is some of the search's bands over all of them. From `images_per_search` times as many on as there are bands,
it is a part of one band's buckets: a sketch goes to each part in which it stands or looks for partners, so every pair
that shares a bucket meets. The pairs found are the same, however they are partitioned.

A bucket that holds a million images, frames of one camera as it were, is dealt out, lest one worker have them all: in
each of its bands the images meet a share of the others, another one in each band. Which buckets are so crowded, a
sample of the images tells.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np

from beam_jobs.bundles import late
from beam_jobs.duplicates import lsh
from beam_jobs.duplicates.alike import COMPONENT, find_components
from beam_jobs.elements import Listing, Row
from pipeline.format.packing import pack, unpack

_BLOCK = 512  # sketches that travel together
_IMAGES_PER_SEARCHER = 250_000  # each sketch goes to every searcher, of which each takes some 160 bytes an image
_MAX_BITS = 14
_CROWD = 1 << 20  # images of a bucket that one worker has at most, about
_SAMPLED = 256  # one image of so many

Key = tuple[int, int, int, int, int]  # first band, step to the next one, bits and number of the part, share
Crowded = Mapping[tuple[int, int], int]  # (band, bucket) → bits of the share that an image belongs to


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


class Sample(beam.DoFn):
    """Counts in which buckets a sample of the images stand. Row → (None, counts)."""

    def start_bundle(self) -> None:
        self._hashes: list[bytes] = []

    def process(self, row: Row, listing: Listing) -> None:
        # By the end of the id: its beginning deals crowds out.
        if listing.total > _CROWD and row.pixels[lsh.ID_BYTES - 1] % _SAMPLED == 0 and row.facts.perceptual_hash:
            self._hashes.append(row.facts.perceptual_hash + sketch_id(row))

    def finish_bundle(self) -> Iterator[Any]:
        if self._hashes:
            buckets = lsh.buckets_of(np.frombuffer(b"".join(self._hashes), lsh.SKETCH))
            counts = [sorted(collections.Counter(of_band).items()) for of_band in buckets.T.tolist()]
            yield late((None, pack(counts)))


def find_crowds(element: tuple[None, Iterable[bytes]]) -> bytes:
    """Finds the crowded buckets. (None, counts of the bundles) → packed [((band, bucket), bits of the shares)]."""
    sums: collections.Counter[tuple[int, int]] = collections.Counter()
    for packed in element[1]:
        for band, counts in enumerate(unpack(packed)):
            sums.update({(band, bucket): count for bucket, count in counts})
    crowds = {place: -(-count * _SAMPLED // _CROWD) for place, count in sums.items()}
    return pack(sorted((place, (parts - 1).bit_length()) for place, parts in crowds.items() if parts > 1))


def crowds_of(packed: bytes) -> Crowded:
    """Decodes what `find_crowds` gives."""
    return {(band, bucket): bits for (band, bucket), bits in unpack(packed)} if packed else {}


class Share(beam.DoFn):
    """Shares sketches out to searches. Row → (partition, block); next to uniform ones have no hash and come nowhere."""

    def __init__(self, images_per_search: int) -> None:
        self._images_per_search = images_per_search

    def start_bundle(self) -> None:
        self._block: list[bytes] = []
        self._bits: int | None = None
        self._searches = 0
        self._crowded: Crowded = {}

    def process(self, row: Row, listing: Listing, crowded: bytes) -> Iterator[tuple[Key, bytes]]:
        if not row.facts.perceptual_hash:
            return
        if self._bits is None:
            self._bits = part_bits(listing.total, images_per_search=self._images_per_search)
            self._searches = searches(listing.total)
            self._crowded = crowds_of(crowded)
        self._block.append(row.facts.perceptual_hash + sketch_id(row))
        if len(self._block) == _BLOCK:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(late, self._flush())

    def _flush(self) -> Iterator[tuple[Key, bytes]]:
        if not self._block:
            return
        sketches = np.frombuffer(b"".join(self._block), lsh.SKETCH)
        self._block = []
        if self._bits:
            yield from partitions_of(sketches, self._bits, self._crowded)
        else:
            for first in range(self._searches):
                yield (first, self._searches, 0, 0, 0), sketches.tobytes()


def partitions_of(sketches: np.ndarray, bits: int, crowded: Crowded) -> Iterator[tuple[Key, bytes]]:
    """Yields the partitions that have to do with sketches (SKETCH [n]), each with those that concern it."""
    concerned = lsh.buckets_concerned(sketches)
    for band, buckets in enumerate(concerned.transpose(1, 0, 2)):
        free = np.ones(buckets.shape, np.bool_)
        for bucket, shares in ((bucket, shares) for (of, bucket), shares in crowded.items() if of == band):
            here = buckets == bucket
            free &= ~here
            members = here.any(axis=1)
            numbers = lsh.shares_of(sketches, band, shares)
            for number in np.unique(numbers[members]).tolist():
                key = (band, lsh.BANDS, lsh.BUCKET_BITS, bucket, number)
                yield key, sketches[members & (numbers == number)].tobytes()
        parts = np.where(free, buckets >> lsh.BUCKET_BITS - bits, -1)
        for part in np.unique(parts[free]).tolist():
            yield (band, lsh.BANDS, bits, part, 0), sketches[(parts == part).any(axis=1)].tobytes()


def search(element: tuple[Key, Iterable[bytes]], crowded: bytes) -> tuple[None, bytes]:
    """Searches a partition. (partition, blocks) → (None, bytes of its similar pairs)."""
    (first, step, bits, number, _), blocks = element
    sketches = np.frombuffer(bytearray().join(blocks), lsh.SKETCH)
    without = () if bits == lsh.BUCKET_BITS else sorted(bucket for band, bucket in crowds_of(crowded) if band == first)
    part = lsh.Part(bits=bits, number=number, without=tuple(without))
    return None, lsh.similar(sketches, range(first, lsh.BANDS, step), part=part).tobytes()


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
    one = beam.pvalue.AsSingleton(listing)
    crowds = (
        rows
        | "Sample" >> beam.ParDo(Sample(), one).with_output_types(tuple[None, bytes])
        | "GatherSamples" >> beam.GroupByKey()
        | "FindCrowds" >> beam.Map(find_crowds).with_output_types(bytes)
    )
    crowded = beam.pvalue.AsSingleton(crowds, default_value=b"")
    found = (
        rows
        | "Share" >> beam.ParDo(Share(images_per_search), one, crowded).with_output_types(tuple[Key, bytes])
        | "GroupByPartition" >> beam.GroupByKey()
        | "Search" >> beam.Map(search, crowded).with_output_types(tuple[None, bytes])
        | "GatherPairs" >> beam.GroupByKey()
        | "Components" >> beam.Map(components).with_output_types(bytes)
    )
    return rows | "PartAlike" >> beam.ParDo(
        PartAlike(), beam.pvalue.AsSingleton(found, default_value=b"")
    ).with_output_types(Row, alike=tuple[bytes, tuple[Row, bytes]]).with_outputs("alike", main="alone")
