"""Does by hand what a pass does by itself: promotes and rolls back models; and tells about them.

Every change is a line of the decision log that says who made it, when and why.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

from pipeline.command import UsageError
from pipeline.format import storage
from retrain import registry
from retrain.ledger import append_decision
from retrain.registry import Model


def who() -> str:
    """Names the user and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    """Returns the time for the log."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def note(root: str, decision: str, why: str, *, before: Model | None, after: Model | None) -> None:
    """Adds a line to the decision log about what was done by hand."""
    record = {
        "time": now(),
        "decision": decision,
        "reasons": [why],
        "who": who(),
        "champion_before": before and before.number,
        "champion_after": after and after.number,
    }
    append_decision(root, record)


def promote(root: str, model: Model, *, why: str, decision: str = "promoted by hand") -> None:
    """Makes a model the champion; the next pass does not undo it.

    Raises:
      DataError: it is damaged.
      UsageError: it is the champion already.
    """
    champion = registry.champion(root)
    if champion == model:
        raise UsageError(f"model {model.number} is the champion already")
    registry.require_whole(model)
    registry.set_champion(root, model)
    note(root, decision, why, before=champion, after=model)


def roll_back(root: str, *, why: str) -> Model:
    """Makes the champion before the champion again, and returns it; UsageError where there is none."""
    champion = registry.champion(root)
    if champion is None:
        raise UsageError(f"{root} has no champion")
    before = registry.predecessor(root, champion)
    if before is None:
        raise UsageError(f"model {champion.number} is the first champion that {root} knows, or the one before is gone")
    promote(root, before, why=why, decision=registry.ROLLED_BACK)
    return before


def summary(root: str, model: Model) -> str:
    """Tells a model in one line."""
    marks = "champion" if registry.champion(root) == model else ""
    record = model.promotion()
    if not record:
        return f"{model.number:>4}  copied in by hand  {marks}".rstrip()
    figures = record["figures"]
    version = os.path.basename(str(record["dataset"]))
    return (
        f"{model.number:>4}  {record['time'][:16].replace('T', ' ')}  accuracy {figures['accuracy']:.4f} on "
        f"{figures['test_images']:,} images  data {version}  {marks}"
    ).rstrip()


def described(model: Model) -> Iterator[str]:
    """Tells all that is known of a model."""
    yield f"model {model.number}, {model.path}"
    yield f"  {len(model.labels())} labels: {', '.join(model.labels())}"
    yield f"  {_bytes(model.path) / 1e6:.1f} MB"
    if record := model.promotion():
        yield f"  {record['decision']} {record['time']} by {record.get('who', 'a pass')}"
        yield f"  data {record['dataset']}, run {record['run']}"
        yield from (f"  {reason}" for reason in record["reasons"])
    for name in ("report.html", "gate-data.html"):
        if storage.exists(model.file(name)):
            yield f"  {model.file(name)}"


def _bytes(folder: str) -> int:
    """Adds up what a folder and those below it hold."""
    return sum(
        _bytes(storage.join(folder, entry.name)) if entry.is_folder else entry.size
        for entry in storage.list_folder(folder)
    )


def differences(one: Model, other: Model) -> Iterator[str]:
    """Tells what differs between two models: figures, labels, data and settings."""
    records = [model.promotion() for model in (one, other)]
    for name in ("accuracy", "test_images"):
        values = [record.get("figures", {}).get(name) for record in records]
        if values[0] != values[1]:
            yield f"  {name}: {' → '.join('–' if value is None else f'{value:.4g}' for value in values)}"
    names = [set(model.labels()) for model in (one, other)]
    for what, labels in (("labels gone", names[0] - names[1]), ("new labels", names[1] - names[0])):
        if labels:
            yield f"  {what}: {', '.join(sorted(labels))}"
    seen = [model.trained_on() for model in (one, other)]
    more, gone, both = (len(of) for of in (seen[1] - seen[0], seen[0] - seen[1], seen[0] & seen[1]))
    yield f"  training images: {more:,} more, {gone:,} gone, {both:,} of both"
    settings = [settings_of(model.path) for model in (one, other)]
    for key in sorted(settings[0].keys() | settings[1].keys()):
        values = [of.get(key) for of in settings]
        if values[0] != values[1]:
            yield f"  {key}: {json.dumps(values[0])} → {json.dumps(values[1])}"


def settings_of(folder: str) -> dict[str, Any]:
    """Returns the settings of a run or of a model, `recipe.phases.0.duration` → value; {} where none are noted."""
    try:
        config = json.loads(storage.read_text(storage.join(folder, "config.json")))
    except FileNotFoundError:
        return {}
    return dict(_flat("recipe", config.get("recipe", {}))) | {"seed": config.get("seed")}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields `recipe.phases.0.duration`, value and so on."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not parts:
        yield name, value
    for key, part in parts:
        yield from _flat(f"{name}.{key}", part)
