"""Reads meaning, type and default of every key of a frozen dataclass, for the documentation."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from trainer.recipes import overrides

_ENTRY = re.compile(r"^  (\w+(?:, \w+)*): (.*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """Describes a key as the documentation shows it; a key without a default has to be given."""

    name: str
    kind: str
    default: str | None
    meaning: str


def meanings(kind: type) -> dict[str, str]:
    """Reads name → text from the `Attributes:` of a docstring; "a, b: text" is told of both."""
    found: dict[str, str] = {}
    current: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        if entry := _ENTRY.match(line):
            current = entry[1].split(", ")
            found.update(dict.fromkeys(current, entry[2]))
        elif line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in current})
    return found


def keys(kind: Any, prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a dataclass, in order.

    Args:
      kind: the dataclass.
      prefix: of the names, as `--set` writes them.

    Raises:
      KeyError: a key has no meaning.
    """
    told = meanings(kind)
    for field in dataclasses.fields(kind):
        if not told.get(field.name):
            raise KeyError(f'{kind.__name__}.{field.name} has no meaning under "Attributes:" of its docstring')
        yield Key(
            name=prefix + field.name,
            kind=str(field.type).replace("dataclasses.", ""),
            default=_default(field),
            meaning=told[field.name],
        )


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return None
    plain = overrides.to_dict(value)
    if dataclasses.is_dataclass(value) and isinstance(plain, dict):
        return "its own defaults"
    return plain if isinstance(plain, str) and plain else json.dumps(plain, default=dict)
