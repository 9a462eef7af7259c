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

_POLL_SECONDS = 1.0
_LOG_SECONDS = 30.0
_DATE = "%Y-%m-%d %H:%M:%S"  # as the log of other commands has it
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


class Display:
    """Shows a stage: a bar on a terminal, a line now and then in a log."""

    def __init__(self, stage: str, out: TextIO) -> None:
        self._stage, self._out = stage, out
        self._start = time.monotonic()
        self._next_line = self._start + _LOG_SECONDS
        self._bar = None
        if out.isatty():
            from tqdm import tqdm  # takes longer to import than all else here

            self._bar = tqdm(desc=stage, unit=" images", leave=False, file=out)

    def show(self, count: int, total: int | None) -> None:
        """Shows that `count` images are done, of at most `total`, or of nobody knows how many."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(count - self._bar.n)
            self._bar.refresh()  # the stage may be over before the bar's own interval is
            return
        now = time.monotonic()
        if count and now >= self._next_line:
            self._next_line = now + _LOG_SECONDS
            rate = count / (now - self._start)
            of = f" of at most {total}" if total else ""
            left = f", {max(0, total - count) / rate:.0f} s left at most" if total else ""
            text = f"{self._stage}: {count}{of} images, {rate:.0f}/s{left}"
            print(f"{time.strftime(_DATE)} {text}", file=self._out, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


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
            latest, display = newest, Display(list(counters)[newest], out)
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
