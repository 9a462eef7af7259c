"""Reads the commands' flags from their definitions, for the documentation and for the test that checks its blocks.

All commands define their flags in one registry, so they are imported one after the other, and each one's are forgotten
before the next: in a process of its own, `python -m scripts.docs.commands`, which prints them as JSON.
"""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "beam_jobs", "trainer", "retrain")
_BEGINS_A_COMMAND = re.compile(r"^    (run_command\(|runpy\.)", re.MULTILINE)


def names() -> list[str]:
    """Lists the commands, as `python -m NAME` takes them."""
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if _BEGINS_A_COMMAND.search(path.read_text(encoding="utf-8"))
    )


def _module(name: str) -> str:
    if name == "pipeline.preview":  # the name for users of trainer.preview
        return "trainer.preview"
    return f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name


def each() -> Iterator[tuple[str, str, list[flags.Flag]]]:
    """Yields name, docstring and flags of every command, in a process that has imported none of them.

    While one is looked at, absl's FLAGS holds its flags and no other command's.
    """
    before = set(flags.FLAGS)
    for name in names():
        module = importlib.import_module(_module(name))
        found = set(flags.FLAGS) - before
        key = [flag for flag in flags.FLAGS.get_key_flags_for_module(module) if flag.name in found]
        yield name, module.__doc__ or "", key
        for flag in found:
            delattr(flags.FLAGS, flag)
        sys.modules.pop(module.__name__)  # two names may stand for one command


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(dict.fromkeys(value)) if isinstance(value, list) else str(value)
    return text.replace(str(pathlib.Path.home()), "~")


def _described(flag: flags.Flag) -> dict[str, Any]:
    return {
        "name": flag.name,
        "help": flag.help or "",
        "type": flag.flag_type(),
        "values": list(getattr(flag.parser, "enum_values", None) or []),
        "default": None if flag.default in (None, "", []) else _default(flag.default),
        "required": any("must have a value other than None" in str(v.message) for v in flag.validators),
    }


@functools.cache
def read() -> dict[str, dict[str, Any]]:
    """Returns name → {"doc": text, "flags": descriptions} of every command, asking a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.docs.commands"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    described = {name: {"doc": doc, "flags": [_described(flag) for flag in key]} for name, doc, key in each()}
    json.dump(described, sys.stdout)
