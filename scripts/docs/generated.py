"""Fills what is generated into the pages while Sphinx reads them: it stands nowhere else, so it cannot go stale.

A page asks for it by a comment on a line of its own: `<!-- generated: flags trainer.main -->`, `keys recipe`,
`recipes`, `models`, `commands` or `api`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from pipeline.augment.config import AugmentConfig
from retrain.config import RetrainConfig
from retrain.limits import DataGateConfig, GateConfig
from scripts.docs import commands, models, python_api
from scripts.docs.keys import keys
from trainer import api
from trainer.models import HeadConfig
from trainer.recipes.load import recipe_names
from trainer.recipes.recipe import OptimizerConfig, Phase, Recipe

# What keys are told of: the dataclass, and how `--set` or the configuration file spells its keys.
SETTINGS: dict[str, tuple[type, str]] = {
    "recipe": (Recipe, ""),
    "phase": (Phase, "phases.0."),
    "head": (HeadConfig, "head."),
    "optimizer": (OptimizerConfig, "optimizer."),
    "augment": (AugmentConfig, "augment."),
    "retrain": (RetrainConfig, ""),
    "gate": (GateConfig, "gate."),
    "data_gate": (DataGateConfig, "data_gate."),
}
_WANTED = re.compile(r"^<!-- generated: (\w+) ?(\S*) -->$", re.MULTILINE)


def fill(markdown: str) -> str:
    """Replaces the comments of a page by what they ask for; KeyError names what nobody knows."""
    return _WANTED.sub(lambda found: _MAKERS[found[1]](found[2]), markdown)


def _cell(text: str) -> str:
    return " ".join(text.replace("<", "&lt;").replace("|", "\\|").split())


def _flags(command: str) -> str:
    known = commands.read()[command]
    summary, _, usage = known["doc"].strip().partition("\n")
    # Indented lines are code, which shows a "<" as it stands; elsewhere it would begin a tag.
    lines = [line if line.startswith("    ") else line.replace("<", "&lt;") for line in usage.splitlines()]
    parts = ["## In its own words", summary.replace("<", "&lt;"), "\n".join(lines).strip("\n"), "## Flags"]
    rows = [_flag(flag) for flag in known["flags"]]
    table = ["| flag | default | meaning |", "|---|---|---|", *rows]
    parts.append("\n".join(table) if rows else "None but `--help` and `--version`, which every command has.")
    return "\n\n".join(parts)


def _flag(flag: dict[str, Any]) -> str:
    name = f"--[no]{flag['name']}" if flag["type"] == "bool" else f"--{flag['name']}"
    meaning = flag["help"]
    if flag["values"]:  # absl begins the help with `<a|b>: `
        meaning = f"One of {', '.join(flag['values'])}. {meaning.removeprefix('<' + '|'.join(flag['values']) + '>: ')}"
    default = "**has to be given**" if flag["required"] else f"`{flag['default']}`" if flag["default"] else ""
    return f"| `{name}` | {default} | {_cell(meaning)} |"


def _keys(what: str) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys(*SETTINGS[what]):
        default = f"`{key.default}`" if key.default is not None else "has none"
        lines.append(f"| `{key.name}` | `{_cell(key.kind)}` | {_cell(default)} | {_cell(key.meaning)} |")
    return "\n".join(lines)


def _recipes(_: str) -> str:
    docs = {name: importlib.import_module(f"trainer.recipes.{name}").__doc__ or "" for name in recipe_names()}
    return _named("recipe", docs)


def _commands(_: str) -> str:
    return _named("command", {f"python -m {name}": known["doc"] for name, known in commands.read().items()})


def _named(what: str, docs: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {_cell(doc.strip().splitlines()[0])} |" for name, doc in docs.items()]
    return "\n".join([f"| {what} | what it does |", "|---|---|", *rows])


_MAKERS = {
    "flags": _flags,
    "keys": _keys,
    "recipes": _recipes,
    "commands": _commands,
    "models": lambda _: models.table(),
    "api": lambda _: python_api.reference(api),
}
