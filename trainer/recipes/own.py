"""Runs recipes that users have written, and says which code of theirs a recipe rests on. Free of TensorFlow."""

from __future__ import annotations

import atexit
import dataclasses
import inspect
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.own_code import IMPORTED, OwnCode, find, is_own
from trainer.models import backbone_info
from trainer.recipes.recipe import DataFacts, Recipe

FOLDER = "own_code"  # in a run: holds a copy of each source
RECORD = "own_code"  # in config.json: role → file, function and sha256
_BACKBONE, _POLICY = "backbone", "policy"


def own_recipe(path: str, facts: DataFacts, *, backbone: str | None) -> Recipe:
    """Calls `recipe(facts)`, or `recipe(facts, backbone)`, of a user's file.

    Args:
      path: of the file, a `.py`.
      facts: what the recipe may derive its settings from.
      backbone: another one than the recipe's own.

    Raises:
      UsageError: there is no such file, it has no such function or raises something, or returns no recipe.
    """
    code = find(f"{path}:recipe")
    parameters = list(inspect.signature(code.load()).parameters.values())
    if backbone and len(parameters) < 2:
        raise code.refuse(f"it takes no backbone, so --backbone={backbone} has no say; write recipe(facts, backbone)")
    if len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty and not backbone:
        raise code.refuse(f'its "{parameters[1].name}" has no default; give one, or --backbone=NAME')
    recipe = code.call(facts, backbone_info(backbone).name) if backbone else code.call(facts)
    if not isinstance(recipe, Recipe):
        raise code.refuse(f"returns {type(recipe).__name__}, not a trainer.recipes.recipe.Recipe")
    return recipe


def own_code(recipe_name: str, recipe: Recipe) -> dict[str, OwnCode]:
    """Returns the code of users that a run rests on, by its role: recipe, backbone, policy.

    Args:
      recipe_name: the value of --recipe.
      recipe: that it means.
    """
    names = {_BACKBONE: recipe.backbone, _POLICY: recipe.augment.policy}
    found = {role: find(name) for role, name in names.items() if is_own(name)}
    return {"recipe": find(f"{recipe_name}:recipe"), **found} if recipe_name.endswith(".py") else found


def spelt_out(recipe: Recipe) -> Recipe:
    """Returns a recipe whose files of code are named by absolute paths."""
    backbone, policy = (find(name).name if is_own(name) else name for name in (recipe.backbone, recipe.augment.policy))
    return dataclasses.replace(recipe, backbone=backbone, augment=dataclasses.replace(recipe.augment, policy=policy))


def record(code: Mapping[str, OwnCode]) -> dict[str, Any]:
    """Returns what config.json says of a run's own code; nothing where there is none."""
    entries = {role: _entry(one) for role, one in sorted(code.items())}
    return {RECORD: entries} if entries else {}


def _entry(code: OwnCode) -> dict[str, Any]:
    imports = {one.name: one.sha256 for one in code.imports}
    return {
        "file": code.file,
        "function": code.function,
        "sha256": code.sha256,
        **({"package": code.package} if code.package else {}),
        **({"imports": imports} if imports else {}),
    }


def _copies(role: str, entry: Mapping[str, Any]) -> list[str]:
    """Lists the files that a run keeps of one function's code, in `FOLDER`; the first is its own."""
    imports = [f"{IMPORTED}/{name}" for name in entry.get("imports", {})]
    if "package" not in entry:
        return [f"{role}.py", *imports]
    # Where its relative imports, and those of what it imports, find each other.
    folders = entry["package"].split(".")
    inits = ["/".join((IMPORTED, *folders[:depth], "__init__.py")) for depth in range(1, len(folders) + 1)]
    own = "/".join((IMPORTED, *folders, os.path.basename(entry["file"])))
    return [own, *imports, *(init for init in inits if init not in imports and init != own)]


def digests(code: Mapping[str, OwnCode]) -> dict[str, str]:
    """Returns what tells code from other code, wherever it lies: role → function, sha256 and those of its imports."""
    entries = {role: _entry(one) for role, one in sorted(code.items())}
    return {
        role: " ".join([entry["function"], entry["sha256"], *(f"{k} {v}" for k, v in entry.get("imports", {}).items())])
        for role, entry in entries.items()
    }


def copy_into(run: storage.Path, code: Mapping[str, OwnCode]) -> None:
    """Keeps the sources with the run, as `own_code/<role>.py` and `own_code/imported/…`."""
    for role, one in code.items():
        sources = itertools.chain([one.source], (more.source for more in one.imports), itertools.repeat(b""))
        for name, source in zip(_copies(role, _entry(one)), sources, strict=False):
            file = storage.join(run, FOLDER, *name.split("/"))
            storage.make_folder(os.path.dirname(file))
            storage.write_atomically(file, source)


def recorded_recipe(config: Mapping[str, Any], run: storage.Path) -> dict[str, Any]:
    """Returns a run's recipe as plain values, with the copies of users' code that lie in the run.

    So it is what it was, whatever has become of the originals.

    Args:
      config: what the run's config.json holds.
      run: the run's folder.
    """
    recipe = dict(config["recipe"])
    for role, entry in config.get(RECORD, {}).items():
        names = _copies(role, entry)
        if role == _BACKBONE:
            recipe["backbone"] = f"{_local(run, names)}:{entry['function']}"
        elif role == _POLICY:
            recipe["augment"] = {**recipe["augment"], "policy": f"{_local(run, names)}:{entry['function']}"}
    return recipe


def refuse_changed_code(run: storage.Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError if the code that a run rests on is no longer what it was.

    Args:
      run: the run's folder.
      before: its config.json.
      now: what that would be today.
    """
    for role, old in before.get(RECORD, {}).items():
        new = now.get(RECORD, {}).get(role)
        if not new or new["function"] != old["function"]:
            continue
        changed, copy = new["file"], _copies(role, old)[0]
        if new["sha256"] == old["sha256"]:
            # A run that an earlier version began has not recorded them.
            imports, was = new.get("imports", {}), old.get("imports", {})
            other = sorted(name for name in was if imports.get(name) != was[name])
            if not other:
                continue
            changed, copy = f"{other[0]}, which {new['file']} imports,", f"{IMPORTED}/{other[0]}"
        raise UsageError(
            f"{changed} has changed since the run in {run} began with it; {storage.join(run, FOLDER, copy)} is as it "
            "was: put that back, or take another --run"
        )


def alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `now` with the names of `before` for the same code, which may lie elsewhere or be spelt otherwise.

    What `refuse_changed_code` has let through is the same code where both name the same function. A recipe's own file
    needs no more than that: its values are compared, which may come from a config.json, too.
    """
    old, new = before.get(RECORD, {}), now.get(RECORD, {})
    same = {role for role in old.keys() & new.keys() if old[role]["function"] == new[role]["function"]}
    recipe = dict(now["recipe"])
    if _BACKBONE in same:
        recipe["backbone"] = before["recipe"]["backbone"]
    if _POLICY in same:
        recipe["augment"] = {**recipe["augment"], "policy": before["recipe"]["augment"]["policy"]}
    rest = {key: value for key, value in now.items() if key != RECORD}
    return {**rest, "recipe": recipe, **({RECORD: old} if old else {})}


def _local(run: storage.Path, names: Sequence[str]) -> str:
    """Returns the first of some files of a run's own code; remote ones are copied to the disk for this process."""
    if not storage.is_remote(run):
        return os.path.abspath(storage.join(run, FOLDER, names[0]))
    folder = tempfile.mkdtemp(prefix="own_code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in names:
        copy = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open(copy, "wb") as opened:
            opened.write(storage.read(storage.join(run, FOLDER, *name.split("/"))))
    return os.path.join(folder, names[0])
