"""Counts the photos of each class before anything is built, so that too few are told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.command import DataError
from pipeline.format import storage
from trainer.quickstart.place import Place

_FEWEST = 3  # of a class: one for each split
_SPLITS = ("train", "val", "test")  # how folders begin that may be splits: the builder decides
_MOST = 200_000  # files that are counted; with more, nothing takes long because of a few


def count_photos(place: Place) -> Mapping[str, int]:
    """Counts the files below each folder of photos; {} for a store, which the builder lists in parallel.

    Raises:
      DataError: a class has too few.
    """
    if storage.is_remote(place.photos):
        return {}
    counts: dict[str, int] = {}
    with os.scandir(place.photos) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in classes:
        counts[name] = 0
        for _, _, files in os.walk(os.path.join(place.photos, name)):
            counts[name] += sum(not file.startswith(".") for file in files)
            if sum(counts.values()) > _MOST:
                return counts
    rarest = min(counts, key=lambda name: counts[name], default=None)
    if rarest and len(counts) > 1 and 0 < counts[rarest] < _FEWEST and not rarest.lower().startswith(_SPLITS):
        raise DataError(
            f"{place.photos}: class {rarest} has {counts[rarest]} photo{'s' * (counts[rarest] > 1)}; each class needs "
            f"{_FEWEST} at least, and 20 or more to be learnt well: add photos, or move that folder away"
        )
    return counts
