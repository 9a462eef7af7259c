"""Where a run comes from: enough to make it again."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import subprocess
from typing import Any

import tensorflow as tf

from pipeline.format.manifest import DatasetVersion

_PACKAGES = ("tensorflow", "tensorflow-tpu", "keras", "keras-cv", "numpy", "pillow")


def collect(data: DatasetVersion, *, seed: int, started: str) -> dict[str, Any]:
    """The content of provenance.json: dataset, commit, packages, seed, devices, times (`started`: as `now` gave it)."""
    manifest = data.manifest
    return {
        "dataset": {"name": manifest.name, "version": manifest.version, "fingerprint": manifest.source_fingerprint},
        "git_commit": _git_commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "seed": seed,
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "started": started,
        "finished": now(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this code, or None where it is not run from a git checkout."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
