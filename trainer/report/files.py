"""Reads the files of a finished run, and opens the dataset that it was made with. Free of TensorFlow."""

from __future__ import annotations

import json
import os
from typing import Any

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from pipeline.format.manifest import VERSIONS_DIR, DatasetVersion, open_dataset

FORMS_FILE = "forms.json"  # of an export: size, time, agreement and accuracy of each of its forms


def _read_text(file: str) -> str:
    try:
        return storage.read_text(file)
    except FileNotFoundError as error:
        run = os.path.dirname(file)
        if not storage.exists(storage.join(run, "config.json")):
            raise UsageError(f"--run={run}: no config.json there; {kinds.no_run(run)}") from error
        raise UsageError(
            f"{file}: no such file, so {run} is no finished run; "
            f"python -m trainer.main --run={run} with its --data and --recipe goes on with it"
        ) from error


def read_json(file: str) -> dict[str, Any]:
    """Reads a JSON file of a finished run; UsageError where there is none."""
    return json.loads(_read_text(file))


def read_lines(file: str) -> list[dict[str, Any]]:
    """Reads a file of JSON lines of a finished run; UsageError where there is none."""
    return [json.loads(line) for line in _read_text(file).splitlines()]


def read_forms(run: storage.Path) -> list[dict[str, Any]]:
    """Reads what was measured of the exported forms of a run; [] where nothing was."""
    try:
        found: list[dict[str, Any]] = json.loads(storage.read_text(storage.join(run, "export", FORMS_FILE)))
    except FileNotFoundError:
        return []
    return found


def open_data_of(run: storage.Path, path: str | None) -> DatasetVersion:
    """Opens the version that the run was made with, current or not; where it is gone, what is current."""
    root = path or read_json(storage.join(run, "config.json"))["data"]
    version = storage.join(root, VERSIONS_DIR, read_json(storage.join(run, "result.json"))["version"])
    return open_dataset(version if storage.exists(version) else root)
