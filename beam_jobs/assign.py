"""Splits the dataset in the graph: where each class is cut, and which split every image is in."""

from __future__ import annotations

import array
import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam

from beam_jobs import splits
from beam_jobs.bundles import late
from beam_jobs.elements import Cut, Listing, Row
from beam_jobs.settings import Settings
from pipeline.command import DataError

_BLOCK = 4_096  # positions that travel together


def position(row: Row, settings: Settings) -> int:
    """Places the row's group in [0, 2^64)."""
    return splits.position(row.group.name, seed=settings.build.seed)


class Positions(beam.DoFn):
    """Computes the positions of images whose split the build chooses. Row → (class, block of positions)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        self._blocks: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))

    def process(self, row: Row) -> Iterator[tuple[str, bytes]]:
        group = row.group
        if group.official is not None:
            return
        block = self._blocks[group.stratum]
        block.append(position(row, self._settings))
        if len(block) == _BLOCK:
            del self._blocks[group.stratum]
            yield group.stratum, block.tobytes()

    def finish_bundle(self) -> Iterator[tuple[str, bytes]]:
        for stratum, block in self._blocks.items():
            yield late((stratum, block.tobytes()))


def cut_class(element: tuple[str, Iterable[bytes]], settings: Settings) -> tuple[str, Cut]:
    """Cuts a class. (class, blocks of positions) → (class, where it is cut, or why it cannot be)."""
    label, blocks = element
    build = settings.build
    if build.split_by == "hash":
        cuts = splits.cuts_by_hash(build.fractions)
        return label, Cut(names=cuts.names, bounds=cuts.bounds, error="")
    sizes: collections.Counter[int] = collections.Counter()
    for block in blocks:
        sizes.update(array.array("Q", block))
    try:
        cuts = splits.cuts_by_rank(sizes.items(), build.fractions)
    except DataError as error:
        return label, Cut(names=build.fractions.names[:1], bounds=(), error=f'class "{label}": {error}')
    return label, Cut(names=cuts.names, bounds=cuts.bounds, error="")


def split_of(row: Row, cuts: Mapping[str, Cut], listing: Listing, settings: Settings) -> str:
    """Decides the split of a row: its official one, or by its group's position."""
    official = row.group.official
    if official is None:
        cut = cuts[row.group.stratum]
        return splits.Cuts(names=cut.names, bounds=cut.bounds).split(position(row, settings))
    if official == "train" and "validation" not in listing.official:
        held_out = settings.build.validation_fraction * splits.POSITIONS
        return "validation" if position(row, settings) < held_out else "train"
    return official


def assign(row: Row, cuts: Mapping[str, Cut], listing: Listing, settings: Settings) -> Row:
    """Puts a row into its split. Row → row."""
    return row.assigned(split_of(row, cuts, listing, settings))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assigned:
    """Holds the rows with their splits, and where the classes are cut."""

    rows: beam.PCollection[Row]
    cuts: beam.PCollection[tuple[str, Cut]]


def split_up(
    several: Sequence[beam.PCollection[Row]], listing: beam.PCollection[Listing], settings: Settings
) -> Assigned:
    """Adds the steps that cut the classes and assign every row to a split."""
    positions = [
        rows | f"Positions{number}" >> beam.ParDo(Positions(settings)).with_output_types(tuple[str, bytes])
        for number, rows in enumerate(several)  # each where it comes from: one time less through the engine
    ]
    cuts = (
        positions
        | "AllPositions" >> beam.Flatten()
        | "GroupByClass" >> beam.GroupByKey()
        | "CutClasses" >> beam.Map(cut_class, settings).with_output_types(tuple[str, Cut])
    )
    sides = beam.pvalue.AsDict(cuts), beam.pvalue.AsSingleton(listing)
    rows = several | "Distinct" >> beam.Flatten()
    return Assigned(rows=rows | "Assign" >> beam.Map(assign, *sides, settings).with_output_types(Row), cuts=cuts)
