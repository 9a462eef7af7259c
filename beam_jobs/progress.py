"""Shows how far a build has come by what lies in its output: the parts and shards that a kill would spare.

Every engine and every store leaves them alike, whereas Beam's local runner tells its metrics only when it has ended.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from beam_jobs import parts
from beam_jobs.settings import WORK_DIR, Settings
from beam_jobs.shards import ShardReport
from beam_jobs.sources import RemoteSource
from pipeline.format import storage
from pipeline.progress import ImageCount

_POLL_SECONDS = 1.0
_SHARE = 20  # polls take at most this part of the time: a store's answer may take long


def _parts(folder: str) -> int:
    return sum(map(parts.entries_in, parts.list_parts(folder)))


class Shards:
    """Counts the images in whole shards of unfinished versions; reads each report once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._examples: dict[str, int] = {}

    def __call__(self) -> int:
        with contextlib.suppress(OSError):
            for version in storage.list_folder(self._folder):
                for report in storage.list_folder(storage.join(self._folder, version.name)):
                    self._read(storage.join(self._folder, version.name, report.name))
        return sum(self._examples.values())

    def _read(self, path: str) -> None:
        if path in self._examples or path.endswith(".tmp"):
            return
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            _, text = storage.read_text(path).split("\n", 1)
            self._examples[path] = ShardReport.from_json(text).shard.examples


def stages(settings: Settings) -> Mapping[str, Callable[[], int]]:
    """Returns how to count what each stage has done, in the order of the stages."""
    found: dict[str, Callable[[], int]] = {}
    source = settings.source
    if isinstance(source, RemoteSource):
        store = source.store
        found["downloading"] = lambda: _parts(store.found)
    found["inspecting"] = lambda: _parts(settings.findings)
    found["writing"] = Shards(storage.join(settings.build.output, WORK_DIR, "shards"))
    return found


def _total(settings: Settings) -> int | None:
    try:
        return int(storage.read_text(settings.note("listed")))
    except (OSError, ValueError):
        return None


def _watch(settings: Settings, ended: threading.Event, out: TextIO) -> None:
    counters = stages(settings)
    # What earlier runs left is done already: it counts for no rate.
    before = {stage: count() for stage, count in counters.items()}
    latest, display, total, pause = -1, None, None, _POLL_SECONDS
    while not ended.wait(pause):
        start = time.monotonic()
        done = [count() - before[stage] for stage, count in counters.items()]
        total = total or _total(settings)
        newest = max((number for number, count in enumerate(done) if count > 0), default=-1)
        if newest > latest:
            if display:
                display.close()
            latest, display = newest, ImageCount(list(counters)[newest], out, at_most=True)
        if display:
            display.show(done[latest], total)
        pause = max(_POLL_SECONDS, _SHARE * (time.monotonic() - start))
    if display:
        display.close()


@contextlib.contextmanager
def shown(settings: Settings) -> Iterator[None]:
    """Shows the stages of a build, one after the other, while the body runs."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(settings, ended, sys.stderr), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_POLL_SECONDS)  # not for long: it may be waiting for a store
