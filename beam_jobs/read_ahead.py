"""Reads ahead: brings an image that comes from a disk to memory while those before it are decoded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from beam_jobs.sources import AnnouncedSource, Source, SourceItem

T = TypeVar("T")

# Some megabytes of photos: enough for a disk to work without a pause, little enough to stay in memory until it is read.
_DEPTH = 32


def read_ahead(items: Iterable[T], source: Source, *, item: Callable[[T], SourceItem | None]) -> Iterator[T]:
    """Yields what it is given; announces each image, to a source that wants it, `_DEPTH` images before its turn.

    Args:
      items: in the order in which they will be read.
      source: of the images.
      item: the image that one of `items` needs from the source, or None.
    """
    if not isinstance(source, AnnouncedSource):
        yield from items
        return
    now, later = itertools.tee(items)
    waiting = filter(None, map(item, later))
    for soon in itertools.islice(waiting, _DEPTH):
        source.announce(soon)
    for one in now:
        for soon in itertools.islice(waiting, 1):
            source.announce(soon)
        yield one
