"""Writes MODELS/index.html: all passes, the newest first, and how data and accuracy went. One file, no scripts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.format import storage
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import environment
from pipeline.pages.index import PAGE
from retrain.data import page as data_page
from retrain.ledger import decisions

TITLE = ": passes"  # how that of the page ends
COMPARISON = "gate-model.html"  # of the challenger with the champion, image by image
_PAGES = {"data": data_page.PAGE, "comparison": COMPARISON}  # words → page beside a run
_SHOWN = 200  # passes
_WIDTH, _HEIGHT, _MARGIN = 720, 180, 44  # of the chart
_LEVELS = {"promoted": "green", "promoted by hand": "green", "rolled back": "amber", "held": "red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """Describes a line of the decision log.

    Attributes:
      time: when.
      decision: what was decided.
      level: green, amber or red.
      reason: the deciding one; of data that are held all.
      who: made it.
      dataset: version.
      images: test images; None where none were looked at.
      accuracy: on them.
      interval: 95 %, Wilson.
      champion: number of the champion after it.
      links: (words, relative address).
    """

    time: str
    decision: str
    level: str
    reason: str
    who: str
    dataset: str
    images: int | None
    accuracy: float | None
    interval: tuple[float, float] | None
    champion: int | None
    links: Sequence[tuple[str, str]]


def write_index(root: str) -> None:
    """Writes the page of a registry."""
    history = decisions(root)
    passes = [_described(root, record) for record in history[-_SHOWN:]][::-1]
    measured = [one for one in reversed(passes) if one.accuracy is not None]
    text = (
        environment(__package__)
        .get_template("index.html.j2")
        .render(passes=passes, more=len(history) - len(passes), chart=_chart(measured), folder=os.path.basename(root))
    )
    storage.write_atomically(storage.join(root, PAGE), text, shared=True)


def _described(root: str, record: Mapping[str, Any]) -> Pass:
    figures = record.get("figures", {})
    images, accuracy = figures.get("test_images"), figures.get("accuracy")
    return Pass(
        time=record["time"][:16].replace("T", " "),
        decision=record["decision"],
        level=_LEVELS.get(record["decision"], "amber"),
        reason="; ".join(record["reasons"] if record["decision"] == "held" else record["reasons"][-1:]),
        who=record.get("who", ""),
        dataset=os.path.basename(str(record.get("dataset", ""))),
        images=images,
        accuracy=accuracy,
        interval=wilson_interval(round(accuracy * images), images) if images else None,
        champion=record.get("champion_after"),
        links=[*_links(root, record)],
    )


def _links(root: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Finds the pages that a pass has left, in the model's folder or beside its run."""
    if "run" not in record:
        return []
    run = str(record["run"])
    beside = str(record.get("pages") or data_page.folder_beside(run))
    places = {"report": storage.join(run, "report.html")}
    places |= {words: storage.join(beside, name) for words, name in _PAGES.items()}
    model = storage.join(root, str(record.get("model", "")))
    found = []
    for words, page in places.items():
        published = storage.join(model, os.path.basename(page)) if "model" in record else page
        target = published if storage.exists(published) else page
        if storage.exists(target):
            found.append((words, os.path.relpath(target, root)))
    return found


def _chart(passes: Sequence[Pass]) -> dict[str, Any] | None:
    """Returns where the points of the chart lie: accuracy with its interval, pass by pass."""
    if len(passes) < 2:
        return None
    low = min(one.interval[0] for one in passes if one.interval)
    low = max(0.0, int(low * 20) / 20)

    def y(value: float) -> float:
        return round(_HEIGHT - 24 - (value - low) / max(1 - low, 1e-9) * (_HEIGHT - 40), 1)

    step = (_WIDTH - 2 * _MARGIN) / (len(passes) - 1)
    points = [
        {"x": round(_MARGIN + index * step, 1), "y": y(one.accuracy or 0.0), "pass": one,
         "low": y((one.interval or (0, 0))[0]), "high": y((one.interval or (0, 0))[1])}
        for index, one in enumerate(passes)
    ]  # fmt: skip
    lines = [(y(value), value) for value in (low, (1 + low) / 2, 1.0)]
    return {"points": points, "lines": lines, "width": _WIDTH, "height": _HEIGHT, "margin": _MARGIN}
