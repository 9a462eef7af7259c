"""Keeps results between runs, as JSON files named after a digest of all that they depend on. Free of TensorFlow.

Some come with the package (`trainer.preflight.answers`): those are only read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pipeline.format.storage import write_atomically

SHIPPED = pathlib.Path(__file__).with_name("answers")
# Distribution → what it is called in keys: the one for CPUs makes the same programs as the one for GPUs.
_PACKAGES = {
    "tensorflow": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-tpu": "tensorflow-tpu",
    "keras": "keras",
}


def default_directory() -> pathlib.Path:
    """Names the folder for results, under XDG_CACHE_HOME or ~/.cache."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return root / "tpu_retraining" / "preflight"


def digest(key: Mapping[str, Any]) -> str:
    """Returns the sha256 (hex) of plain JSON values."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def installed() -> dict[str, str]:
    """Returns the versions of what lowers our step."""
    found = {}
    for name, called in _PACKAGES.items():
        try:
            found[called] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Cache:
    """Keeps results in a directory, and finds those that were shipped."""

    def __init__(self, directory: pathlib.Path | None, *, shipped: pathlib.Path | None = None) -> None:
        """Takes the folder to keep results in, or None to keep nothing, and one that is read as well."""
        self._directory, self._shipped = directory, shipped

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns what was stored for `key`; None where there is nothing, or something damaged."""
        for directory in (self._directory, self._shipped):
            if directory is None:
                continue
            try:
                return json.loads(_file(directory, key).read_text())["value"]
            except (OSError, ValueError, KeyError):
                continue
        return None

    def put(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Stores plain JSON values, whole or not at all. The key goes along, for whoever reads the file."""
        if self._directory is None:
            return
        file = _file(self._directory, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "value": value}, indent=1, sort_keys=True) + "\n"
        # Phases of one program are compiled side by side, and two commands may run at once.
        write_atomically(file, text, shared=True)


def _file(directory: pathlib.Path, key: Mapping[str, Any]) -> pathlib.Path:
    return directory / f"{digest(key)}.json"
