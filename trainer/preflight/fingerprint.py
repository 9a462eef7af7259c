"""Digests the code that a result depends on: what it imports, without what only people read. Free of TensorFlow."""

from __future__ import annotations

import ast
import hashlib
import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any


def digest_of(start: Iterable[pathlib.Path], *, root: pathlib.Path, packages: Collection[str]) -> str:
    """Returns the sha256 (hex) of `start` and of all that those files import, those imports' imports included.

    Comments, docstrings and line breaks change nothing, nor does the version of Python.

    Args:
      start: files under `root`.
      root: the folder that holds the packages.
      packages: whose files are followed, by name; versions of what else is imported are the caller's affair.
    """
    trees = followed(start, root=root, packages=packages)
    lines = sorted(f"{path.relative_to(root)} {_plain(tree)!r}" for path, tree in trees.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def followed(
    start: Iterable[pathlib.Path], *, root: pathlib.Path, packages: Collection[str]
) -> dict[pathlib.Path, ast.Module]:
    """Returns the syntax trees of `start` and of all that those files import; arguments as for `digest_of`."""
    found: dict[pathlib.Path, ast.Module] = {}
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = ast.parse(path.read_text(encoding="utf-8"))
        for name in _imports(found[path]):
            if name.split(".")[0] in packages:
                waiting += _files(name, root)
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yields what is imported, inside of functions too, as dotted names: `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str, root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the files that importing a dotted name runs: the packages on the way, and the module."""
    place = root
    for part in name.split("."):
        place = place / part
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def _plain(node: Any) -> Any:
    """Returns a syntax tree as plain values, without empty fields, which come and go with versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *((name, _plain(value)) for name, value in fields.items())]
