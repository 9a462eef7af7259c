"""Turns settings into plain JSON values for config.json and back; overrides (`--set=path=value`) and compares them."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pipeline.command import UsageError, nearest
from trainer.recipes.schedule import Duration

Settings = TypeVar("Settings")


def to_dict(value: Any) -> Any:
    """Returns a frozen dataclass as plain JSON values, durations as text."""
    if isinstance(value, Duration):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    return value


def from_dict(kind: Any, value: Any, path: str = "") -> Any:
    """Builds `kind` (a type annotation) from plain JSON values: the inverse of `to_dict`.

    Raises:
      ValueError: naming the path of the offending value, and for an unknown key the nearest known one.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else from_dict(typing.get_args(kind)[0], value, path)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, path)
    if kind is Duration:
        return value if isinstance(value, Duration) else Duration.parse(value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    return _scalar(kind, value, path)


def _tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{path} is a list, got {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{path} has {len(kinds)} values, got {value!r}")
    return tuple(from_dict(kind, item, f"{path}.{i}") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is a group of settings, got {value!r}")
    for key in value:
        if key not in hints:
            raise ValueError(f'no setting "{_join(path, key)}".{nearest(key, list(hints))}')
    return kind(**{key: from_dict(hints[key], item, _join(path, key)) for key, item in value.items()})


def _join(path: str, key: str) -> str:
    return f"{path}.{key}".strip(".")


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{path} is of type {kind.__name__}, got {value!r}")
    return value


def split(assignments: Iterable[str]) -> dict[str, str]:
    """Returns path → value, as text, of `path=value` assignments, of which the last of a path counts.

    Raises:
      UsageError: one is no assignment.
    """
    found = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set={assignment}: write it as path=value, e.g. --set=phases.0.duration=5ep")
        found[path.strip()] = text.strip()
    return found


def override(settings: Settings, assignments: Iterable[str]) -> Settings:
    """Applies `path=value` assignments, e.g. `phases.1.lr_max=0.01`, `phases.0.duration=120st`, `augment.flip=false`.

    Values are JSON; what is no JSON is text.

    Raises:
      UsageError: an unknown path (names the nearest key), or a value that the dataclass refuses.
    """
    plain = to_dict(settings)
    for path, text in split(assignments).items():
        _assign(plain, path.split("."), text, f"{path}={text}")
    try:
        return from_dict(type(settings), plain)
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error


def _assign(node: Any, keys: list[str], text: str, assignment: str) -> None:
    for depth, key in enumerate(keys):
        known = [str(i) for i in range(len(node))] if isinstance(node, list) else []
        known = list(node) if isinstance(node, dict) else known
        if key not in known:
            there = f" There are {', '.join(known)}." if known else ""
            wrong = ".".join(keys[: depth + 1])
            raise UsageError(f'--set={assignment}: no setting "{wrong}".{nearest(key, known)}{there}')
        index: Any = int(key) if isinstance(node, list) else key
        if depth < len(keys) - 1:
            node = node[index]
        else:
            node[index] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Lists, as `path: before → after`, every leaf in which two plain values (`to_dict`) differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(key, before.get(key), after.get(key)) for key in sorted({*before, *after})]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [f"{path}: {json.dumps(before)} → {json.dumps(after)}"]
    return [line for key, b, a in pairs for line in differences(b, a, _join(path, key))]
