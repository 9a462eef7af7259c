"""Does by hand what a pass does by itself: promotes and rolls back models, and removes old ones.

Every change is a line of the decision log that says who made it, when and why.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.command import UsageError
from pipeline.format.manifest import CURRENT_FILE, VERSIONS_DIR
from pipeline.format.rows import version_number
from retrain import registry
from retrain.data.page import BESIDE
from retrain.registry import Model


def who() -> str:
    """Names the user and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def now() -> str:
    """Returns the time for the log."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _note(root: pathlib.Path, decision: str, why: str, *, before: Model | None, after: Model | None) -> None:
    """Adds a line to the decision log about what was done by hand."""
    record = {
        "time": now(),
        "decision": decision,
        "reasons": [why],
        "who": who(),
        "champion_before": before and before.number,
        "champion_after": after and after.number,
    }
    registry.append_decision(root, record)


def promote(root: pathlib.Path, model: Model, *, why: str, decision: str = "promoted by hand") -> None:
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
    _note(root, decision, why, before=champion, after=model)


def roll_back(root: pathlib.Path, *, why: str) -> Model:
    """Makes the champion before the champion again, and returns it; UsageError where there is none."""
    champion = registry.champion(root)
    if champion is None:
        raise UsageError(f"{root} has no champion")
    before = registry.predecessor(root, champion)
    if before is None:
        raise UsageError(f"model {champion.number} is the first champion that {root} knows, or the one before is gone")
    promote(root, before, why=why, decision=registry.ROLLED_BACK)
    return before


def summary(root: pathlib.Path, model: Model) -> str:
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
    yield f"  {sum(path.stat().st_size for path in model.path.rglob('*') if path.is_file()) / 1e6:.1f} MB"
    if record := model.promotion():
        yield f"  {record['decision']} {record['time']} by {record.get('who', 'a pass')}"
        yield f"  data {record['dataset']}, run {record['run']}"
        yield from (f"  {reason}" for reason in record["reasons"])
    for file in ("report.html", "gate-data.html"):
        if (model.path / file).exists():
            yield f"  {model.path / file}"


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


def settings_of(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of a run or of a model, `recipe.phases.0.duration` → value; {} where none are noted."""
    file = folder / "config.json"
    if not file.exists():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    return dict(_flat("recipe", config.get("recipe", {}))) | {"seed": config.get("seed")}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields `recipe.phases.0.duration`, value and so on."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not parts:
        yield name, value
    for key, part in parts:
        yield from _flat(f"{name}.{key}", part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prunable:
    """Holds what nothing needs any more: folders of models, of runs and of data versions."""

    models: Sequence[Model]
    runs: Sequence[pathlib.Path]
    versions: Sequence[pathlib.Path]

    @property
    def folders(self) -> list[pathlib.Path]:
        """Lists all folders."""
        return [*(model.path for model in self.models), *self.runs, *self.versions]


def prunable(root: pathlib.Path, runs: pathlib.Path | None, data: pathlib.Path | None, *, keep: int) -> Prunable:
    """Finds what may go: all but the newest, and never what the champion, its predecessor or the last pass needs.

    Args:
      root: the registry.
      runs: folder of runs; None: they are left alone.
      data: dataset root; None: its versions are left alone.
      keep: how many of the newest models, runs and versions stay.
    """
    champion = registry.champion(root)
    needed = [model for model in (champion, registry.predecessor(root, champion) if champion else None) if model]
    models = registry.models(root)
    gone = [model for model in models[: max(0, len(models) - keep)] if model not in needed]
    kept = [model for model in models if model not in gone]
    used = [record for record in (model.promotion() for model in kept) if record]
    used += [record for record in registry.decisions(root) if "run" in record][-1:]
    of_runs = {os.path.basename(str(record["run"])) for record in used}
    of_runs |= {os.path.basename(str(record.get("pages", ""))).removesuffix(BESIDE) for record in used}
    of_data = {os.path.basename(str(record["dataset"])) for record in used}
    return Prunable(models=gone, runs=_old_runs(runs, of_runs, keep), versions=_old_versions(data, of_data, keep))


def _old_runs(folder: pathlib.Path | None, used: set[str], keep: int) -> list[pathlib.Path]:
    if folder is None or not folder.is_dir():
        return []
    newest_first = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    names = list(dict.fromkeys(path.name.removesuffix(BESIDE) for path in newest_first))
    kept = {*names[:keep], *used}
    return sorted(path for path in newest_first if path.name.removesuffix(BESIDE) not in kept)


def _old_versions(root: pathlib.Path | None, used: set[str], keep: int) -> list[pathlib.Path]:
    folder = root / VERSIONS_DIR if root else None
    if root is None or folder is None or not folder.is_dir():
        return []
    numbered = {path: number for path in folder.iterdir() if (number := version_number(path.name))}
    oldest_first = sorted(numbered, key=lambda path: numbered[path])
    current = (root / CURRENT_FILE).read_text(encoding="utf-8").strip()
    return [path for path in oldest_first[: max(0, len(oldest_first) - keep)] if path.name not in {*used, current}]


def remove(found: Prunable, root: pathlib.Path) -> None:
    """Removes what may go, and notes it; each folder is renamed first: a killed removal leaves none that is half."""
    for parent in {folder.parent for folder in found.folders}:
        registry.clean(parent)  # what a killed removal has left
    for folder in found.folders:
        dying = folder.with_name(f".staging-{folder.name}")
        os.rename(folder, dying)
        shutil.rmtree(dying)
    if found.folders:
        champion = registry.champion(root)
        counted = f"{len(found.models)} models, {len(found.runs)} runs, {len(found.versions)} data versions"
        names = ", ".join(str(model.number) for model in found.models)
        why = f"removed {counted}" + (f" (models {names})" if names else "")
        _note(root, "pruned", why, before=champion, after=champion)
