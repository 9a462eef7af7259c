"""Finds near duplicates, images that look alike, and decides what becomes of them. (exact.py handles equal pixels.)

Blocks of rows → sketches (16 bytes of id, 72 of hash) → grouped by key: bands → similar pairs → components. The rows of
images that look like no other go straight on; those of one component meet in one place, where it is decided who stays.
Only sketches and pairs are shuffled, besides the few rows that belong to a component. Memory: about 500 bytes an image
in the worker that searches, 300 bytes for each image that has a near duplicate where the components are put together.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import crew, lsh
from beam_jobs.exact import Resolved, group_line, protection
from beam_jobs.rows import RejectRow, Row, pack, unpack
from beam_jobs.spool import Block, Spool
from beam_jobs.tasks import search_bands
from pipeline.images.policy import RejectCode

# Two pictures are the same one, however they were saved, and not just alike: enough to call their labels a conflict.
# Recompressed, resized and brightness-shifted copies are almost all above, cropped ones half.
SAME_PICTURE = 0.93

_IMAGES_PER_SEARCH = 25_000
_ROWS_PER_BLOCK = 1_000

# id → (component, component of those that show the same picture)
Components = Mapping[bytes, tuple[bytes, bytes]]


def sketch_id(row: Row) -> bytes:
    """Names the row for the search: enough of the digest of its pixels, which no other row has any more."""
    return row.pixels[: lsh.ID_BYTES]


def sketches(rows: Iterable[Row]) -> bytes:
    """Makes the search's input from rows, as the bytes of an lsh.SKETCH array; near-uniform images have none."""
    return b"".join(row.perceptual_hash + sketch_id(row) for row in rows if row.perceptual_hash)


def find_components(edges: np.ndarray) -> Components:
    """Finds the components of lsh.EDGE [n]: of the pairs that are similar, and of those that show the same picture."""
    forest = lsh.spanning_forest(edges)
    same = lsh.components(forest, at_least=SAME_PICTURE)
    return {item: (component, same.get(item, item)) for item, component in lsh.components(forest).items()}


def _conflicts(rows: Iterable[tuple[Row, bytes]], out: Resolved) -> list[Row]:
    """Takes out the pictures that stand under several labels; returns the other rows."""
    pictures: dict[bytes, list[Row]] = collections.defaultdict(list)
    for row, picture in rows:
        pictures[picture].append(row)
    others = []
    for members in pictures.values():
        first = min(protection(row) for row in members)
        rivals = [row for row in members if protection(row) == first]
        if len({row.label for row in rivals}) == 1:
            others += members
            continue
        names = " and ".join(sorted({row.label for row in rivals}))
        members.sort(key=lambda row: (row.id, row.uri))
        for row in members:
            other = next(o for o in members if o.label != row.label)
            detail = f"the same picture, saved differently, stands under {names} ({other.uri})"
            out.rejects.append(RejectRow.make(row, RejectCode.LABEL_CONFLICT, detail))
        out.groups.append(group_line("near_conflict", members, kept=()))
    return others


def resolve_component(rows: Iterable[tuple[Row, bytes]], *, mode: str) -> Resolved:
    """Decides about one component.

    Args:
      rows: (row, what `find_components` says for the same picture), in any order.
      mode: "group" keeps all and gives them one split; "drop" keeps the largest of each label.

    Returns:
      What stays, with `group` and `stratum` set; rejects: pictures under several labels (which is right nobody knows),
      near copies of a more protected official split's images, and in mode "drop" the smaller copies.
    """
    out = Resolved()
    left = _conflicts(rows, out)
    if not left:
        return out
    left.sort(key=lambda row: (protection(row), -row.height * row.width, row.id, row.uri))
    first = left[0]
    kept: dict[str, list[Row]] = collections.defaultdict(list)
    for row in left:
        if protection(row) > protection(first):
            detail = f"looks like {first.uri} of the {first.official} split"
            out.rejects.append(RejectRow.make(row, RejectCode.TRAIN_COPY_OF_TEST, detail))
        elif mode == "drop" and kept[row.label]:
            detail = f"looks like {kept[row.label][0].uri}"
            out.rejects.append(RejectRow.make(row, RejectCode.NEAR_DUPLICATE, detail))
        else:
            kept[row.label].append(row)
    # Named after a member that no later, larger copy displaces.
    group = min(row.pixels for row in left)
    free = [row for row in left if row.official is None]
    stratum = min(free or left, key=lambda row: row.pixels).label
    # Where only some images have an official split, those that look like them go there too.
    official = first.official or next((row.official for row in left if row.official), None)
    out.kept = [
        row._replace(group=group, stratum=stratum, official=row.official or official)
        for several in kept.values()
        for row in several
    ]
    if len(left) > 1:
        out.groups.append(group_line("near", left, kept=[row.uri for row in out.kept]))
    return out


class _Sketch(beam.DoFn):
    """Makes one block of sketches for all searches. Block of rows → (number of the search, block of sketches)."""

    def __init__(self, searches: int, spool: str) -> None:
        self._searches = searches
        self._directory = spool

    def setup(self) -> None:
        self._spool = Spool(self._directory)

    def process(self, block: Block) -> Iterator[tuple[int, Block]]:
        if rows := sketches(unpack(block)):
            found = self._spool.put(rows)
            for search in range(self._searches):
                yield search, found


class _Search(beam.DoFn):
    """Searches its bands for similar pairs.

    (number of the search, blocks of sketches) → (None, bytes of the similar pairs in the search's bands).
    """

    def __init__(self, searches: int) -> None:
        self._searches = searches

    def setup(self) -> None:
        self._crew = crew.current()

    def start_bundle(self) -> None:
        self._under_way: list[concurrent.futures.Future[bytes]] = []

    def process(self, element: tuple[int, Iterable[Block]]) -> Iterator[tuple[None, bytes]]:
        search, blocks = element
        bands = range(search, lsh.BANDS, self._searches)
        if self._crew:
            self._under_way.append(self._crew.submit("search", list(blocks), bands))
        else:
            yield None, search_bands(blocks, bands)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for search in self._under_way:
            yield GlobalWindows.windowed_value((None, crew.result(search)))


def _components(element: tuple[None, Iterable[bytes]]) -> bytes:
    """Pickles the components of all pairs as one object, because Beam would measure every entry of a mapping.

    (None, bytes of similar pairs) → pickled Components.
    """
    return pickle.dumps(find_components(np.frombuffer(b"".join(element[1]), lsh.EDGE)), protocol=5)


class _Part(beam.DoFn):
    """Separates the images that look like others from those that do not.

    Block of rows → block of those that look like no other; tagged `alike`: (component, pickled [(row, picture)]).
    """

    def __init__(self, spool: str) -> None:
        self._directory = spool

    def setup(self) -> None:
        self._spool = Spool(self._directory)

    def start_bundle(self) -> None:
        self._read: tuple[bytes, Components] = b"", {}

    def process(self, block: Block, pickled: bytes) -> Iterator[Any]:
        if pickled is not self._read[0]:
            self._read = pickled, pickle.loads(pickled)
        components = self._read[1]
        alone = []
        alike: dict[bytes, list[tuple[tuple, bytes]]] = collections.defaultdict(list)
        for row in unpack(block):
            if place := components.get(sketch_id(row)):
                alike[place[0]].append((tuple(row), place[1]))
            else:
                alone.append(row)
        if alone:
            yield self._spool.put(pack(alone))
        for component, members in alike.items():
            yield beam.pvalue.TaggedOutput("alike", (component, pickle.dumps(members, protocol=5)))


class _Resolve(beam.DoFn):
    """Decides about components.

    (component, its rows) → blocks of rows; tagged `rejects`: block, `groups`: lines of duplicates.jsonl.
    """

    def __init__(self, mode: str, spool: str) -> None:
        self._mode = mode
        self._directory = spool

    def setup(self) -> None:
        self._spool = Spool(self._directory)

    def start_bundle(self) -> None:
        self._kept: list[Row] = []

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterator[Any]:
        rows = [(Row._make(fields), picture) for members in element[1] for fields, picture in pickle.loads(members)]
        resolved = resolve_component(rows, mode=self._mode)
        self._kept += resolved.kept
        if len(self._kept) >= _ROWS_PER_BLOCK:
            yield self._spool.put(pack(self._kept))
            self._kept = []
        if resolved.rejects:
            yield beam.pvalue.TaggedOutput("rejects", pack(resolved.rejects))
        for line in resolved.groups:
            yield beam.pvalue.TaggedOutput("groups", line)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._kept:
            yield GlobalWindows.windowed_value(self._spool.put(pack(self._kept)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distinct:
    """Holds what a search for duplicates leaves: blocks of rows, blocks of rejects, lines of duplicates.jsonl."""

    rows: beam.PCollection
    rejects: beam.PCollection
    groups: beam.PCollection


def near_duplicates(blocks: beam.PCollection, *, mode: str, total: int, spool: str) -> Distinct:
    """Adds the search for near duplicates to a pipeline.

    Args:
      blocks: blocks of rows without exact duplicates.
      mode: "drop" or "group"; see `resolve_component`.
      total: about how many images there are.
      spool: directory for blocks of rows; see spool.py.
    """
    helpers = crew.current()
    searches = min(lsh.BANDS, max(1 + total // _IMAGES_PER_SEARCH, helpers.size if helpers else 1))
    components = (
        blocks
        | "Sketch" >> beam.ParDo(_Sketch(searches, spool))  # (search, sketches)
        | "GroupByBands" >> beam.GroupByKey()
        | "Search" >> beam.ParDo(_Search(searches))  # (None, pairs)
        | "GatherPairs" >> beam.GroupByKey()
        | "Components" >> beam.Map(_components)
    )
    parted = blocks | "PartAlike" >> beam.ParDo(
        _Part(spool), beam.pvalue.AsSingleton(components, default_value=pickle.dumps({}))
    ).with_outputs("alike", main="alone")
    resolved = (
        parted.alike
        | "GroupAlike" >> beam.GroupByKey()
        | "ResolveAlike" >> beam.ParDo(_Resolve(mode, spool)).with_outputs("rejects", "groups", main="rows")
    )
    rows = (parted.alone, resolved.rows) | "AloneAndKept" >> beam.Flatten()
    return Distinct(rows=rows, rejects=resolved.rejects, groups=resolved.groups)
