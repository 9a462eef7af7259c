"""Finds the files of users that a file of theirs imports, and those that these import, without running any of them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence

_INIT = "__init__.py"
OURS = ("pipeline", "beam_jobs", "trainer", "retrain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """Holds a file that is imported.

    Attributes:
      name: its path below the folder that it is imported from, with slashes, e.g. nets/blocks.py.
      file: where it lies.
      source: what it holds.
    """

    name: str
    file: str
    source: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


def package_of(file: str) -> tuple[str, str]:
    """Returns the package that a file lies in, with dots, and the folder that it is imported from.

    Args:
      file: its absolute path. In a folder without `__init__.py` it lies in no package, "".
    """
    folder, names = os.path.dirname(file), list[str]()
    while os.path.isfile(os.path.join(folder, _INIT)):
        folder, name = os.path.split(folder)
        names.insert(0, name)
    return ".".join(names), folder


def imports_of(file: str, source: bytes, folders: Sequence[str]) -> tuple[Imported, ...]:
    """Returns what a file imports from some folders, whatever is installed left out, by name.

    Args:
      file: its absolute path.
      source: what it holds, which is Python.
      folders: where Python looks for modules first, in this order.
    """
    found: dict[str, Imported] = {}
    waiting = [(file, source)]
    while waiting:
        for one in _direct(*waiting.pop(), folders):
            if one.name not in found and one.file != file:
                found[one.name] = one
                waiting.append((one.file, one.source))
    return tuple(found[name] for name in sorted(found))


def _direct(file: str, source: bytes, folders: Sequence[str]) -> Iterator[Imported]:
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError):  # its import will say so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, folders)
        elif isinstance(node, ast.ImportFrom):
            package = _package(file, node.level, folders) if node.level else ""
            if package is None:
                continue
            module = ".".join(filter(None, (package, node.module)))
            yield from _files(module, folders)
            for alias in node.names:  # which may be a module in it
                yield from _files(f"{module}.{alias.name}".strip("."), folders)


def _package(file: str, level: int, folders: Sequence[str]) -> str | None:
    """Names the package that a relative import starts from; None if it lies in none of the folders."""
    start = os.path.dirname(file)
    for _ in range(level - 1):
        start = os.path.dirname(start)
    for folder in folders:
        below = os.path.relpath(start, folder)
        if below == ".":
            return ""
        if not below.startswith(os.pardir):
            return below.replace(os.sep, ".")
    return None


def _files(module: str, folders: Sequence[str]) -> Iterator[Imported]:
    """Yields a module's file and those of the packages that it lies in."""
    parts = module.split(".")
    if not parts[0] or parts[0] in OURS:
        return
    for folder in folders:
        known = [_read(folder, parts[:depth]) for depth in range(1, len(parts) + 1)]
        if known[0] is not None or os.path.isdir(os.path.join(folder, parts[0])):
            yield from (one for one in known if one)
            return


def _read(folder: str, parts: Sequence[str]) -> Imported | None:
    for name in ("/".join((*parts, _INIT)), "/".join(parts) + ".py"):
        file = os.path.join(folder, *name.split("/"))
        with contextlib.suppress(OSError), open(file, "rb") as opened:
            return Imported(name=name, file=file, source=opened.read())
    return None
