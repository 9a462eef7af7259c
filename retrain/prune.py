"""Removes old models, runs and data versions, and never what is still needed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence

from pipeline.format import storage
from pipeline.format.manifest import CURRENT_FILE, VERSIONS_DIR
from pipeline.format.rows import version_number
from pipeline.format.sums import SUMS_FILE
from retrain import registry
from retrain.curate import note
from retrain.data.page import BESIDE
from retrain.registry import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prunable:
    """Holds what nothing needs any more: folders of models, of runs and of data versions."""

    models: Sequence[Model]
    runs: Sequence[str]
    versions: Sequence[str]

    @property
    def folders(self) -> list[str]:
        """Lists all folders."""
        return [*(model.path for model in self.models), *self.runs, *self.versions]


def prunable(root: str, runs: str | None, data: str | None, *, keep: int) -> Prunable:
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
    passes = registry.passes(root)
    used = [record for record in (model.promotion() for model in kept) if record] + passes[-1:]
    of_data = {os.path.basename(str(record["dataset"])) for record in used}
    of_runs = {name for record in used for name in _runs_of(record)}
    in_order = [name for record in reversed(passes) for name in _runs_of(record)]
    return Prunable(
        models=gone,
        runs=_old_runs(runs, of_runs, in_order, keep) if runs else [],
        versions=_old_versions(data, of_data, keep) if data and not storage.is_remote(data) else [],
    )


def _runs_of(record: dict[str, object]) -> list[str]:
    """Names the runs that a decision is about: that of the model, and that whose name its pages have."""
    places = (str(record.get(key, "")) for key in ("run", "pages"))
    return [os.path.basename(place).removesuffix(BESIDE) for place in places if place]


def _old_runs(folder: str, used: set[str], in_order: Sequence[str], keep: int) -> list[str]:
    """Lists old runs with what lies beside them.

    Args:
      folder: of runs.
      used: names of those that are needed.
      in_order: names of those that were decided about, newest first; in a store only these have an age.
      keep: how many stay.
    """
    try:
        names = [entry.name for entry in storage.list_folder(folder) if entry.is_folder]
    except FileNotFoundError:
        return []
    if storage.is_remote(folder):
        known = list(dict.fromkeys(in_order))
        undecided = [name for name in (one.removesuffix(BESIDE) for one in names) if name not in known]
        newest_first = [*undecided, *known]
        keep += len(set(undecided))
    else:
        newest_first = sorted(names, key=lambda name: -os.stat(os.path.join(folder, name)).st_mtime)
    runs = list(dict.fromkeys(name.removesuffix(BESIDE) for name in newest_first))
    kept = {*runs[:keep], *used}
    return [storage.join(folder, name) for name in sorted(names) if name.removesuffix(BESIDE) not in kept]


def _old_versions(root: str, used: set[str], keep: int) -> list[str]:
    folder = pathlib.Path(root, VERSIONS_DIR)
    if not folder.is_dir():
        return []
    numbered = {path: number for path in folder.iterdir() if (number := version_number(path.name))}
    oldest_first = sorted(numbered, key=lambda path: numbered[path])
    current = pathlib.Path(root, CURRENT_FILE).read_text(encoding="utf-8").strip()
    old = oldest_first[: max(0, len(oldest_first) - keep)]
    return [os.fspath(path) for path in old if path.name not in {*used, current}]


def remove(found: Prunable, root: str) -> None:
    """Removes what may go, and notes it; a killed removal leaves nothing that is half, and could be taken for whole."""
    for parent in {os.path.dirname(folder) for folder in found.folders}:
        registry.clean(parent)  # what a killed removal has left
    for folder in found.folders:
        if storage.is_remote(folder):
            storage.delete(storage.join(folder, SUMS_FILE))  # without which it is no model
            storage.delete(folder)
        else:
            dying = os.path.join(os.path.dirname(folder), f".staging-{os.path.basename(folder)}")
            os.rename(folder, dying)
            shutil.rmtree(dying)
    if found.folders:
        champion = registry.champion(root)
        counted = f"{len(found.models)} models, {len(found.runs)} runs, {len(found.versions)} data versions"
        names = ", ".join(str(model.number) for model in found.models)
        why = f"removed {counted}" + (f" (models {names})" if names else "")
        note(root, "pruned", why, before=champion, after=champion)
