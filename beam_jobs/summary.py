"""Sums up a listing, in any order and in parts, and says whether it can become a dataset. Free of Beam."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable

from beam_jobs import root
from beam_jobs.elements import Item, Listing
from beam_jobs.settings import Settings
from pipeline.command import DataError

_MODULUS = 1 << 256
# [(split, label, images)], sum of the lines' hashes in 32 bytes
Sums = tuple[list[tuple[str | None, str, int]], bytes]


class Summary:
    """Adds up items; the sums do not depend on their order."""

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str | None, str]] = collections.Counter()
        self._total = 0

    def add(self, item: Item) -> None:
        """Adds an item."""
        self._counts[item.split, item.label] += 1
        line = json.dumps([item.uri, item.label, item.split, item.stamp], ensure_ascii=False).encode() + b"\n"
        self._total += int.from_bytes(hashlib.sha256(line).digest(), "big")

    def merge(self, several: Iterable[Sums]) -> None:
        """Adds the sums of others."""
        for counts, total in several:
            self._counts.update({(split, label): count for split, label, count in counts})
            self._total += int.from_bytes(total, "big")

    def sums(self) -> Sums:
        """Returns what came out so far."""
        found = [(split, label, count) for (split, label), count in self._counts.items()]
        found.sort(key=lambda entry: (entry[0] or "", entry[1]))
        return found, (self._total % _MODULUS).to_bytes(32, "big")


def labels_of(listing: Listing, config: Settings) -> tuple[str, ...]:
    """Lists the class names in order: the source's, or the sorted ones that occur."""
    return config.labels or tuple(listing.labels)


def check(listing: Listing, config: Settings) -> None:
    """Refuses what cannot become a dataset, before any image is read.

    Raises:
      DataError: no image, a single class, fewer images of a class than splits, or a label that is not the source's.
    """
    labels = labels_of(listing, config)
    if not listing.total:
        raise DataError("the input holds no images with a label")
    if len(labels) < 2:
        raise DataError(
            f'only one class, "{labels[0]}": a classifier needs two or more. If its sub-folders are the classes, '
            f"give --input one level deeper"
        )
    fractions = config.build.fractions
    sizes = {label: count for split, label, count in listing.counts if split is None}
    for label, size in sorted(sizes.items()):
        if size < len(fractions.names):
            raise DataError(
                f'class "{label}" has {size} images for {len(fractions.names)} splits ({fractions}); '
                "add images, or give fewer --splits"
            )
    if unknown := sorted(set(listing.labels) - set(labels)):
        raise DataError(f'label "{unknown[0]}" is not one of the source\'s {len(labels)} classes')


def listing_of(sums: Sums, config: Settings) -> Listing:
    """Makes the listing of its sums, with the version that was made of the same, if there is one.

    Raises: what `check` raises; OSError.
    """
    counts, total = sums
    digest = hashlib.sha256(f"{config.source_fingerprint}\n{int.from_bytes(total, 'big'):x}".encode())
    fingerprint = digest.hexdigest()
    key = root.build_key(fingerprint, config.build.content())
    published = root.published_as(config.build.output, key) or ""
    listing = Listing(counts=tuple(counts), fingerprint=fingerprint, key=key, published=published)
    check(listing, config)
    return listing
