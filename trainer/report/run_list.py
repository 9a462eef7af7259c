"""Lists the runs in a folder: what each is of, how good it is, whether it has come to its end. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.format import storage
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import duration, environment
from pipeline.pages.index import PAGE

_DEEPEST = 2  # folders below the one that is listed
TITLE = "Runs"  # of the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """Describes a run; None for what is not known of one that has no result.

    Attributes:
      name: its path from the folder that is listed; "." for that itself.
      state: how far it has come, in words.
      recipe: its name.
      backbone: its name.
      data: name and version of the dataset, as far as they are known.
      split: that the accuracy is of.
      accuracy: share of right answers.
      interval: 95 %, Wilson.
      examples: images of the split.
      seconds: from start to end.
      finished: when, ISO 8601.
      report: whether there is a page.
    """

    name: str
    state: str
    recipe: str
    backbone: str
    data: str
    split: str | None = None
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    examples: int = 0
    seconds: float | None = None
    finished: str = ""
    report: bool = False


def find_runs(folder: storage.Path, state_of: Callable[[str], str]) -> list[Listed]:
    """Lists the runs in a folder and in those below it: the last that ended first, then those that have not.

    Args:
      folder: to be looked through, two folders deep.
      state_of: says how far a run has come.
    """
    found = [_listed(path, name, state_of(path)) for path, name in _walk(os.fspath(folder), ".", _DEEPEST)]
    return sorted(found, key=lambda one: (one.finished, one.name), reverse=True)


def _walk(path: str, name: str, depth: int) -> Iterator[tuple[str, str]]:
    entries = storage.list_folder(path)
    if any(entry.name == "config.json" for entry in entries):
        yield path, name
        return
    for entry in entries:
        if entry.is_folder and depth and not entry.name.startswith("."):
            below = entry.name if name == "." else f"{name}/{entry.name}"
            yield from _walk(storage.join(path, entry.name), below, depth - 1)


def _read(file: str) -> dict[str, Any]:
    """Reads a JSON object; {} where there is none, or another thing."""
    try:
        found = json.loads(storage.read_text(file))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(path: str, name: str, state: str) -> Listed:
    config, result = (_read(storage.join(path, file)) for file in ("config.json", "result.json"))
    recipe = config.get("recipe") if isinstance(config.get("recipe"), dict) else {}
    version = config.get("dataset_version", "")
    data = f"{result.get('dataset', '')} {version}".strip() or str(config.get("data", ""))
    described = Listed(
        name=name,
        state=state,
        recipe=str((recipe or {}).get("name", "")),
        backbone=str((recipe or {}).get("backbone", "")),
        data=data,
    )
    splits = result.get("splits", {})
    split = next((one for one in ("test", "validation") if one in splits), None)
    if split:
        accuracy, examples = splits[split]["accuracy"], splits[split]["examples"]
        interval = wilson_interval(round(accuracy * examples), examples)
        described = dataclasses.replace(
            described, split=split, accuracy=accuracy, interval=interval, examples=examples
        )  # fmt: skip
    times = _read(storage.join(path, "provenance.json"))
    if result and times.get("finished"):
        started, finished = (datetime.datetime.fromisoformat(times[of]) for of in ("started", "finished"))
        described = dataclasses.replace(
            described, seconds=(finished - started).total_seconds(), finished=finished.isoformat()
        )
    return dataclasses.replace(described, report=storage.exists(storage.join(path, "report.html")))


def table(runs: Sequence[Listed]) -> Iterator[str]:
    """Lists the runs for a terminal."""
    head = ("run", "state", "recipe", "data", "accuracy", "interval", "time")
    rows = [
        (
            one.name,
            one.state,
            one.recipe,
            one.data,
            "" if one.accuracy is None else f"{one.accuracy:.4f}",
            "" if one.interval is None else f"{one.interval[0]:.3f} to {one.interval[1]:.3f} ({one.split})",
            "" if one.seconds is None else duration(one.seconds),
        )
        for one in runs
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def write_index(folder: storage.Path, runs: Sequence[Listed]) -> str:
    """Writes the list as a page into the folder; returns its path."""
    file = storage.join(folder, PAGE)
    text = environment(__package__).get_template("index.html.j2").render(runs=runs, folder=os.fspath(folder))
    storage.write_atomically(file, text, shared=True)
    return file
