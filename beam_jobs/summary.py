"""Sums up a listing, in any order and in parts, and says whether it can become a dataset. Free of Beam."""

from __future__ import annotations

import collections
import hashlib
import heapq
import json
from collections.abc import Iterable, Sequence

from beam_jobs import labels as class_names
from beam_jobs import root
from beam_jobs.config import BuildConfig
from beam_jobs.elements import Item, Listing
from beam_jobs.settings import Settings
from beam_jobs.sources.left_out import LeftOut, LeftOutKind, described
from pipeline.command import DataError

_MODULUS = 1 << 256
EXAMPLES = 3  # URIs that stand for all of a kind, the first ones
_EMPTY = LeftOutKind.EMPTY_CLASS.value
Counts = list[tuple[str | None, str, int]]  # [(split, label, images)]
Kinds = list[tuple[str, int, tuple[str, ...]]]  # [(kind of what is left out, how many, first URIs)]
# Images; sum of the lines' hashes in 32 bytes; what is left out; folders of classes, [(split, label, URI)]
Sums = tuple[Counts, bytes, Kinds, list[tuple[str | None, str, str]]]


class Summary:
    """Adds up what is listed; the sums do not depend on its order."""

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str | None, str]] = collections.Counter()
        self._total = 0
        self._left_out: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._folders: dict[tuple[str | None, str], str] = {}

    @property
    def empty(self) -> bool:
        """Says whether nothing was added, not even what is left out."""
        return not (self._counts or self._left_out or self._folders)

    def add(self, found: Item | LeftOut) -> None:
        """Adds an item, or what is left out."""
        if isinstance(found, LeftOut):
            if found.kind == _EMPTY:
                self._add_folder(found.split, found.label, found.uri)
            else:
                self._leave_out(found.kind, 1, (found.uri,))
            return
        self._counts[found.split, found.label] += 1
        line = json.dumps([found.uri, found.label, found.split, found.stamp], ensure_ascii=False) + "\n"
        digest = hashlib.sha256(line.encode("utf-8", "surrogatepass")).digest()
        self._total += int.from_bytes(digest, "big")

    def merge(self, several: Iterable[Sums]) -> None:
        """Adds the sums of others."""
        for counts, total, left_out, folders in several:
            self._counts.update({(split, label): count for split, label, count in counts})
            self._total += int.from_bytes(total, "big")
            for kind, count, uris in left_out:
                self._leave_out(kind, count, uris)
            for split, label, uri in folders:
                self._add_folder(split, label, uri)

    def sums(self) -> Sums:
        """Returns what came out so far."""
        found = [(split, label, count) for (split, label), count in self._counts.items()]
        left_out = [(kind, count, uris) for kind, (count, uris) in sorted(self._left_out.items())]
        folders = [(split, label, uri) for (split, label), uri in self._folders.items()]
        found.sort(key=lambda entry: (entry[0] or "", entry[1]))
        folders.sort(key=lambda entry: entry[2])
        return found, (self._total % _MODULUS).to_bytes(32, "big"), left_out, folders

    def _leave_out(self, kind: str, count: int, uris: Iterable[str]) -> None:
        before, known = self._left_out.get(kind, (0, ()))
        self._left_out[kind] = before + count, tuple(heapq.nsmallest(EXAMPLES, (*known, *uris)))

    def _add_folder(self, split: str | None, label: str, uri: str) -> None:
        self._folders[split, label] = min(uri, self._folders.get((split, label), uri))


def left_out_of(sums: Sums) -> Kinds:
    """Lists what is left out; folders of classes of which no image was listed are among it."""
    counts, _, left_out, folders = sums
    listed = {(split, label) for split, label, _ in counts} | {(None, label) for _, label, _ in counts}
    empty = [uri for split, label, uri in folders if (split, label) not in listed]
    return sorted([*left_out, *([(_EMPTY, len(empty), tuple(empty[:EXAMPLES]))] if empty else [])])


def left_out_lines(left_out: Iterable[tuple[str, int, Sequence[str]]]) -> list[str]:
    """Says in words what is left out: `5 files lie in no class folder: a.jpg, b.jpg, c.jpg, …`."""
    return [
        f"{described(kind, count)}: {', '.join(map(shown, uris))}{', …' if count > len(uris) else ''}"
        for kind, count, uris in left_out
    ]


def shown(name: str) -> str:
    """Spells a URI or a label within a line: control characters escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]


def labels_of(listing: Listing, config: Settings) -> tuple[tuple[str, ...], str]:
    """Lists the class names in order, and names the rule: the source's, or that of `labels.ordered`."""
    return (config.labels, class_names.BY_SOURCE) if config.labels else class_names.ordered(listing.labels)


def check(listing: Listing, config: Settings) -> None:
    """Refuses what cannot become a dataset, before any image is read.

    Raises:
      DataError: no image, a single class, fewer images of a class than splits, no training image of a class, a label
        that is not the source's or no printable text, labels that look the same.
    """
    labels, _ = labels_of(listing, config)
    if not listing.total:
        lines = "; ".join(left_out_lines(listing.left_out))
        raise DataError(f"the input holds no images with a label{lines and f' ({lines})'}")
    class_names.check([*labels, *sorted(set(listing.labels) - set(labels))], official=bool(config.labels))
    if len(labels) < 2:
        raise DataError(
            f'only one class, "{labels[0]}": a classifier needs two or more. If its sub-folders are the classes, '
            f"give --input one level deeper"
        )
    if unknown := sorted(set(listing.labels) - set(labels)):
        raise DataError(f'label "{unknown[0]}" is not one of the source\'s {len(labels)} classes')
    _check_sizes(listing, config)
    # A part of an official set may lack classes: that is said, and no fault.
    if (never := untrained(listing)) and not config.labels:
        names = named(sorted(never))
        raise DataError(
            f"no model can learn {names}: images of {'it' if len(never) == 1 else 'them'} stand in "
            f"{' and '.join(sorted(set().union(*never.values())))} only, none in train"
        )


def holds_out(listing: Listing, build: BuildConfig) -> bool:
    """Says whether a part of the official training images becomes validation: where the source has none."""
    official = listing.official
    return "train" in official and "validation" not in official and build.validation_fraction > 0


def untrained(listing: Listing) -> dict[str, set[str]]:
    """Returns label → official splits of classes without training images, where there is an official train split."""
    if "train" not in listing.official:
        return {}
    where: dict[str, set[str | None]] = collections.defaultdict(set)
    for split, label, _ in listing.counts:
        where[label].add(split)
    return {label: {str(s) for s in splits} for label, splits in where.items() if not splits & {"train", None}}


def _check_sizes(listing: Listing, config: Settings) -> None:
    if config.build.small_classes != "refuse":
        return
    splits = len(config.build.fractions.names)
    sizes = {label: count for split, label, count in listing.counts if split is None}
    if small := sorted(label for label, size in sizes.items() if size < splits):
        first = f'class "{small[0]}" has {sizes[small[0]]} images for {splits} splits'
        raise DataError(too_small(first, len(small), len(sizes), config))


def too_small(first: str, small: int, classes: int, config: Settings) -> str:
    """Says that classes are too small to be split, beginning with what is wrong with the first, and the remedies."""
    more = f"; so it is with {small} of the {classes} classes" if small > 1 else ""
    return (
        f"{first} ({config.build.fractions}){more}; add images, or give fewer --splits, --small_classes=train (such a "
        "class stands in train only) or --small_classes=drop (it is left out)"
    )


def named(labels: Sequence[str]) -> str:
    """Spells the first few labels in quotes, and counts the others."""
    names = ", ".join(f'"{label}"' for label in labels[:EXAMPLES])
    return f"{names}{f' and {len(labels) - EXAMPLES} more' if len(labels) > EXAMPLES else ''}"


def listing_of(sums: Sums, config: Settings) -> Listing:
    """Makes the listing of its sums, with the version that was made of the same, if there is one.

    Raises: what `check` raises; OSError.
    """
    counts, total, *_ = sums
    digest = hashlib.sha256(f"{config.source_fingerprint}\n{int.from_bytes(total, 'big'):x}".encode())
    fingerprint = digest.hexdigest()
    key = root.build_key(fingerprint, config.build.content())
    published = root.published_as(config.build.output, key) or ""
    left_out = tuple(left_out_of(sums))
    listing = Listing(counts=tuple(counts), fingerprint=fingerprint, key=key, published=published, left_out=left_out)
    check(listing, config)
    return listing
