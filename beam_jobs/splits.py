"""Decides which split an image belongs to by its duplicate group, so that near-identical images never straddle.

Every group gets a position in [0, 2^64) from its name and the seed. In each class (stratum) the positions are cut at
thresholds. By hash they lie at fixed fractions, so an image never moves when others are added; by rank they lie between
the class's sorted positions, so the fractions come out exact.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from pipeline.command import DataError, UsageError

POSITIONS = 1 << 64
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFractions:
    """Names the splits with the fraction of the images that each one gets, in order; the fractions add up to 1."""

    names: tuple[str, ...]
    fractions: tuple[Fraction, ...]

    @classmethod
    def parse(cls, text: str) -> SplitFractions:
        """Parses `train:0.8,validation:0.1,test:0.1`; raises UsageError naming the part that is wrong."""
        names: list[str] = []
        fractions: list[Fraction] = []
        for part in text.split(","):
            name, colon, number = part.strip().partition(":")
            try:
                # A Fraction of the decimal text, not of the binary float: 0.8 + 0.1 + 0.1 must be 1.
                fraction = Fraction(number.strip())
            except (ValueError, ZeroDivisionError):
                colon, fraction = "", Fraction(0)
            if not colon or not _NAME.match(name) or not 0 < fraction <= 1:
                raise UsageError(
                    f'--splits={text}: "{part}" is not name:fraction with 0 < fraction <= 1 '
                    "(for example train:0.8,validation:0.1,test:0.1)"
                )
            if name in names:
                raise UsageError(f'--splits={text}: "{name}" appears twice')
            names.append(name)
            fractions.append(fraction)
        if sum(fractions) != 1:
            raise UsageError(f"--splits={text}: the fractions add up to {float(sum(fractions)):g}, not 1")
        return cls(names=tuple(names), fractions=tuple(fractions))

    def __str__(self) -> str:
        return ",".join(f"{name}:{float(part):g}" for name, part in zip(self.names, self.fractions, strict=True))


def held_out(fraction: float) -> SplitFractions:
    """Divides official training images: `fraction` of them, above 0 and at most 1, become validation."""
    part = Fraction(str(fraction))
    if part == 1:
        return SplitFractions(names=("validation",), fractions=(part,))
    return SplitFractions(names=("validation", "train"), fractions=(part, 1 - part))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
    """Holds one class's thresholds: positions below `bounds[i]` (and not below `bounds[i-1]`) belong to `names[i]`."""

    names: tuple[str, ...]
    bounds: tuple[int, ...]

    def split(self, position: int) -> str:
        return self.names[bisect.bisect_right(self.bounds, position)]


def position(group: bytes, *, seed: int) -> int:
    """Places the group in [0, 2^64): uniformly, and independently of every other group."""
    digest = hashlib.blake2b(group, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest, "big")


def cuts_by_hash(fractions: SplitFractions) -> Cuts:
    """Sets thresholds at fixed fractions of all positions: the same whatever the data."""
    bounds, total = [], Fraction(0)
    for part in fractions.fractions[:-1]:
        total += part
        bounds.append(int(total * POSITIONS))
    return Cuts(names=fractions.names, bounds=tuple(bounds))


def targets(count: int, fractions: Sequence[Fraction]) -> list[int]:
    """Shares `count` images out by largest remainder; nobody gets none as long as there are enough for all."""
    exact = [count * part for part in fractions]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    while count >= len(shares) and 0 in shares:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] += 1
    return shares


def cuts_by_rank(groups: Iterable[tuple[int, int]], fractions: SplitFractions) -> Cuts:
    """Sets thresholds that give one class's splits their exact shares.

    Args:
      groups: (position, number of images) of each duplicate group of the class; positions are distinct.
      fractions: the splits.

    Groups stay whole: a threshold goes to the group border nearest to the exact share, at least one group a split.

    Raises:
      DataError: fewer groups than splits.
    """
    ordered = sorted(groups)
    splits = len(fractions.names)
    if len(ordered) < splits:
        raise DataError(f"{len(ordered)} distinct images for {splits} splits")
    shares = targets(sum(size for _, size in ordered), fractions.fractions)
    bounds: list[int] = []
    taken, total, goal = 0, 0, 0
    for number, share in enumerate(shares[:-1], start=1):
        goal += share
        last = len(ordered) - (splits - number)  # leaves a group for each split still to come
        first = taken + 1
        while taken < last and (taken < first or abs(total + ordered[taken][1] - goal) <= abs(total - goal)):
            total += ordered[taken][1]
            taken += 1
        bounds.append(ordered[taken][0])
    return Cuts(names=fractions.names, bounds=tuple(bounds))


def split_order(names: Sequence[str]) -> list[str]:
    """Sorts splits in the usual order: train, validation, test, then others by name."""
    usual = ["train", "validation", "test"]
    return sorted(names, key=lambda name: (usual.index(name) if name in usual else len(usual), name))
