"""Names what a pass is about: the content of a dataset, and the runs that are made of it."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pipeline.format.manifest import Manifest
from retrain.config import RetrainConfig


def digest(value: Any) -> str:
    """Names a value of JSON by its content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def content_id(manifest: Manifest) -> str:
    """Names what a dataset version holds: a rebuild that gives the same shards and labels is the same content."""
    shards = {split: [shard.sha256 for shard in manifest.shards(split)] for split in manifest.splits}
    return digest({"labels": manifest.labels, "shards": shards})


def run_name(
    config: RetrainConfig, manifest: Manifest, *, seed: int | None = None, start: Mapping[str, Any] | None = None
) -> str:
    """Names a training run: the dataset's version, for people, and everything that shapes the trained model.

    Args:
      config: of the pass.
      manifest: of the dataset.
      seed: of the run; the first one if not given.
      start: what names the model that it starts from; None: it starts cold.
    """
    shape = [*shape_of(config, seed=seed), dict(start)] if start else shape_of(config, seed=seed)
    return f"{manifest.version}-{digest([content_id(manifest), shape])}"


def shape_of(config: RetrainConfig, *, seed: int | None = None) -> list[Any]:
    """Lists what shapes a model besides the data: by its content, not its place, so that a moved tree goes on."""
    recipe = os.path.basename(config.recipe) if config.recipe.endswith((".py", ".json")) else config.recipe
    first = config.seed if seed is None else seed
    shape = [recipe, first, dict(config.train), dict(config.settings), *_own_files(config)]
    return [*shape, config.gate.evidence] if config.gate.pools else shape


def _own_files(config: RetrainConfig) -> list[str]:
    """Digests the files of code that the configuration names, `FILE.py` and `FILE.py:function`."""
    values = map(str, (config.recipe, *config.train.values(), *config.settings.values()))
    named = (value.partition(":")[0] for value in values if value.partition(":")[0].endswith(".py"))
    files = (pathlib.Path(name).expanduser() for name in named)
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def golden_files(config: RetrainConfig) -> list[tuple[str, int]]:
    """Lists the photos that must stay right, by their places in the folder and their sizes."""
    folder = pathlib.Path(config.golden) if config.golden else None
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files if folder]
