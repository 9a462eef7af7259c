"""Keeps results between runs, as JSON files named after a digest of all that they depend on. Free of TensorFlow."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.format.storage import write_atomically

_PACKAGES = ("tensorflow", "tensorflow-tpu", "keras")


def default_directory() -> pathlib.Path:
    """Names the folder for results, under XDG_CACHE_HOME or ~/.cache."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tpu_retraining"


def digest(key: Mapping[str, Any]) -> str:
    """Returns the sha256 (hex) of plain JSON values."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def code_digest(packages: Iterable[pathlib.Path]) -> str:
    """Returns the sha256 (hex) of the Python files under `packages`: no result may outlive the code it describes."""
    total = hashlib.sha256()
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            total.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def installed() -> dict[str, str]:
    """Returns the versions of what lowers our step."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Cache:
    """Keeps results in a directory; None as the directory keeps nothing."""

    def __init__(self, directory: pathlib.Path | None) -> None:
        self._directory = directory

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns what was stored for `key`; None where there is nothing, or something damaged."""
        if self._directory is None:
            return None
        try:
            return json.loads(self._file(self._directory, key).read_text())["value"]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Stores plain JSON values, whole or not at all. The key goes along, for whoever reads the file."""
        if self._directory is None:
            return
        file = self._file(self._directory, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "value": value}, indent=1, sort_keys=True) + "\n"
        # Phases of one program are compiled side by side, and two commands may run at once.
        write_atomically(file, text, shared=True)

    @staticmethod
    def _file(directory: pathlib.Path, key: Mapping[str, Any]) -> pathlib.Path:
        return directory / "preflight" / f"{digest(key)}.json"
