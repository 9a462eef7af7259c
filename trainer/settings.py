"""What a run's config.json holds, and whether the run goes on under these flags and on this number of devices."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from absl import logging
from etils import epath

from pipeline.command import UsageError
from pipeline.format.manifest import DatasetVersion
from trainer import overrides
from trainer.checkpoint import read_config
from trainer.config import Recipe
from trainer.request import Request

_ASKED = "asked_batch_size"  # in config.json where the batch was rounded up


def _run_in(directory: epath.Path) -> dict[str, Any] | None:
    """The config.json of a run that has got somewhere, else None; settings newer than it have their defaults."""
    if not (directory / "checkpoints").exists():
        return None
    run = read_config(directory)
    with contextlib.suppress(ValueError):  # of other code: the comparison will say so
        run["recipe"] = overrides.to_dict(overrides.from_dict(Recipe, run["recipe"]))
    return run


def fit_batch(recipe: Recipe, *, replicas: int, directory: epath.Path | None = None) -> Recipe:
    """The recipe with a batch that `replicas` devices can share out equally: rounded up, with a warning.

    A run keeps the batch that it was started with: on another number of replicas it goes on only if they can share
    out that one, because its steps and epochs are counted in it.

    Args:
      recipe: what the flags ask for.
      replicas: number of devices.
      directory: the run's, if it may have one already.

    Raises:
      UsageError: the replicas cannot share out the run's batch, or `accumulate` does not divide a replica's part.
    """
    asked = recipe.batch_size
    run = _run_in(directory) if directory else None
    if run and run.get(_ASKED, run["recipe"]["batch_size"]) == asked:
        size = run["recipe"]["batch_size"]
        if size % replicas:
            raise UsageError(
                f"--workdir={directory} holds a run in batches of {size}, which {replicas} replicas cannot share out "
                f"equally; go on with a number of replicas that divides {size}, or take another --workdir"
            )
    else:
        size = -(-asked // replicas) * replicas
    if size // replicas % recipe.accumulate:
        pieces = replicas * recipe.accumulate
        raise UsageError(
            f"batch_size={asked} gives each of {replicas} replicas {size // replicas} images, which "
            f"accumulate={recipe.accumulate} cannot cut into equal pieces; "
            f"--set=batch_size={-(-asked // pieces) * pieces} works, or accumulate=1"
        )
    if size != asked:
        logging.warning(
            "batch_size=%d cannot be shared out equally to %d replicas: it is %d now", asked, replicas, size
        )
    return dataclasses.replace(recipe, batch_size=size)


def settings(request: Request, data: DatasetVersion, recipe: Recipe, *, asked_batch_size: int) -> dict[str, Any]:
    """What config.json holds: all that decides what the run computes."""
    rounded = {} if asked_batch_size == recipe.batch_size else {_ASKED: asked_batch_size}
    return {
        "data": request.data,
        "dataset_version": data.manifest.version,
        "dataset_fingerprint": data.manifest.source_fingerprint,
        "labels": list(data.manifest.labels),
        "seed": request.seed,
        **rounded,
        "recipe": overrides.to_dict(recipe),
    }


def refuse_another_run(directory: epath.Path, wanted: dict[str, Any]) -> None:
    """UsageError, listing what differs, if `directory` holds a run with other settings that has got somewhere."""
    run = _run_in(directory)
    if run and (changed := overrides.differences(run, wanted)):
        lines = "\n  ".join(changed)
        raise UsageError(
            f"--workdir={directory} holds a run with another configuration:\n  {lines}\n"
            "take another --workdir, or the old configuration to go on with it"
        )
