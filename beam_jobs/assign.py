"""Splits the dataset in the graph: where each class is cut, and which split every image is in."""

from __future__ import annotations

import array
import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs import splits
from beam_jobs.bundles import late
from beam_jobs.elements import Cut, Listing, Reject, Row, refuse
from beam_jobs.settings import Settings
from beam_jobs.summary import holds_out
from pipeline.images.policy import RejectCode

_TRAIN = "train"
_ALL_TRAIN = splits.Cuts(names=(_TRAIN,), bounds=())
_BLOCK = 4_096  # positions that travel together
# What is shared out together: the official split of which a part is held out ("": the build chooses), and the class.
Stratum = tuple[str, str]


def position(row: Row, settings: Settings) -> int:
    """Places the row's group in [0, 2^64)."""
    return splits.position(row.group.name, seed=settings.build.seed)


def stratum(row: Row, *, held_out: bool) -> Stratum | None:
    """Names what the row is shared out with; None where its split is the official one.

    Args:
      row: with its group.
      held_out: whether a part of the official training images becomes validation.
    """
    group = row.group
    if group.official is None:
        return "", group.stratum
    return (_TRAIN, group.stratum) if held_out and group.official == _TRAIN else None


class Positions(beam.DoFn):
    """Computes the positions of images whose split the build chooses. Row → (stratum, block of positions)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        self._blocks: dict[Stratum, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))

    def process(self, row: Row, listing: Listing) -> Iterator[tuple[Stratum, bytes]]:
        key = stratum(row, held_out=holds_out(listing, self._settings.build))
        if key is None:
            return
        block = self._blocks[key]
        block.append(position(row, self._settings))
        if len(block) == _BLOCK:
            del self._blocks[key]
            yield key, block.tobytes()

    def finish_bundle(self) -> Iterator[tuple[Stratum, bytes]]:
        for key, block in self._blocks.items():
            yield late((key, block.tobytes()))


def cut_class(element: tuple[Stratum, Iterable[bytes]], settings: Settings) -> tuple[Stratum, Cut]:
    """Cuts a stratum. (stratum, blocks of positions) → (stratum, where it is cut, or why it cannot be)."""
    (official, label), blocks = element
    sizes: collections.Counter[int] = collections.Counter()
    for block in blocks:
        sizes.update(array.array("Q", block))
    return element[0], _held_out(sizes, settings) if official else _shared_out(label, sizes, settings)


def _shared_out(label: str, sizes: Mapping[int, int], settings: Settings) -> Cut:
    """Cuts a class that the build shares out; one of fewer images than splits stays in one, with the reason."""
    build, fractions = settings.build, settings.build.fractions
    by_hash, few = build.split_by == "hash", len(sizes) < len(fractions.names)
    if few and not (by_hash and build.small_classes == "refuse"):
        problem = f'class "{label}": {len(sizes)} distinct images for {len(fractions.names)} splits'
        return Cut(names=(_TRAIN if _TRAIN in fractions.names else fractions.names[0],), bounds=(), error=problem)
    cuts = splits.cuts_by_hash(fractions) if by_hash else splits.cuts_by_rank(sizes.items(), fractions)
    return Cut(names=cuts.names, bounds=cuts.bounds, error="")


def _held_out(sizes: Mapping[int, int], settings: Settings) -> Cut:
    """Cuts the official training images of a class: a part becomes validation.

    Of classes so small that their share rounds to nothing, hashes decide which images it is, lest many such classes
    give far too much; but each keeps an image to learn from.
    """
    build = settings.build
    fractions = splits.held_out(build.validation_fraction)
    by_hash = build.split_by == "hash"
    if len(fractions.names) > 1 and not by_hash and 2 * sum(sizes.values()) * fractions.fractions[0] >= 1:
        cuts = splits.cuts_by_rank(sizes.items(), fractions) if len(sizes) > 1 else _ALL_TRAIN
    else:
        cuts = splits.cuts_by_hash(fractions)
        # Without an image in train a build ends, but not that of an official set, where hashes alone may decide.
        learnt = _TRAIN not in fractions.names or any(cuts.split(at) == _TRAIN for at in sizes)
        cuts = cuts if learnt or (by_hash and settings.labels) else _ALL_TRAIN
    return Cut(names=cuts.names, bounds=cuts.bounds, error="")


def assign(row: Row, cuts: Mapping[Stratum, Cut], listing: Listing, settings: Settings) -> Iterator[Any]:
    """Puts a row into its split: the official one, or by its group's position.

    Row → row; tagged `rejects`: reject, where classes that are too small to be split are left out.
    """
    key = stratum(row, held_out=holds_out(listing, settings.build))
    if key is None:
        yield row.assigned(row.group.official or "")
        return
    cut = cuts[key]
    if cut.error and settings.build.small_classes == "drop":
        yield beam.pvalue.TaggedOutput("rejects", refuse(row, RejectCode.SMALL_CLASS, cut.error))
    else:
        yield row.assigned(splits.Cuts(names=cut.names, bounds=cut.bounds).split(position(row, settings)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assigned:
    """Holds the rows with their splits, what is left out, and where the strata are cut."""

    rows: beam.PCollection[Row]
    rejects: beam.PCollection[Reject]
    cuts: beam.PCollection[tuple[Stratum, Cut]]


def split_up(
    several: Sequence[beam.PCollection[Row]], listing: beam.PCollection[Listing], settings: Settings
) -> Assigned:
    """Adds the steps that cut the classes and assign every row to a split."""
    one = beam.pvalue.AsSingleton(listing)
    positions = [
        rows | f"Positions{number}" >> beam.ParDo(Positions(settings), one).with_output_types(tuple[Stratum, bytes])
        for number, rows in enumerate(several)  # each where it comes from: one time less through the engine
    ]
    cuts = (
        positions
        | "AllPositions" >> beam.Flatten()
        | "GroupByClass" >> beam.GroupByKey()
        | "CutClasses" >> beam.Map(cut_class, settings).with_output_types(tuple[Stratum, Cut])
    )
    assigned = (
        several
        | "Distinct" >> beam.Flatten()
        | "Assign"
        >> beam.FlatMap(assign, beam.pvalue.AsDict(cuts), one, settings)
        .with_output_types(Row, rejects=Reject)
        .with_outputs("rejects", main="rows")
    )
    return Assigned(rows=assigned.rows, rejects=assigned.rejects, cuts=cuts)
