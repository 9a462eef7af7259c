"""Says what a run keeps of itself, and reads it back: config.json, and provenance.json, enough to make it again.

A run goes on under the same configuration only, and with a batch that its devices can share out. Free of TensorFlow,
but for `load_run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from pipeline.command import DataError, UsageError
from pipeline.format import kinds, storage
from pipeline.format.manifest import DatasetVersion
from trainer.recipes import overrides, own
from trainer.recipes.recipe import Recipe
from trainer.request import Request

if TYPE_CHECKING:
    from trainer.models.classifier import Classifier

_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "keras", "keras-cv", "numpy", "pillow")
_DATA = "data"  # in config.json: where the dataset was
_ASKED = "asked_batch_size"  # in config.json where the batch was rounded up
_CORES = "tpu_cores"  # in config.json where the recipe was fitted to a TPU


def _run_in(directory: storage.Path) -> dict[str, Any] | None:
    """Reads the config.json of a run that has got somewhere, else None; settings newer than it get their defaults."""
    if not storage.exists(storage.join(directory, "checkpoints")):
        return None
    run = read_config(directory)
    with contextlib.suppress(ValueError):  # of other code: the comparison will say so
        run["recipe"] = overrides.to_dict(overrides.from_dict(Recipe, own.recorded_recipe(run, directory)))
    return run


def tpu_cores(directory: storage.Path, *, here: int) -> int:
    """Returns to how many TPU cores the run's recipe was fitted when it began, which is now; 0: to no TPU.

    Args:
      directory: of the run.
      here: cores that this process trains with, 0 without a TPU.
    """
    run = _run_in(directory)
    return run.get(_CORES, 0) if run else here


def fit_batch(
    recipe: Recipe, *, replicas: int, num_train: int | None = None, directory: storage.Path | None = None
) -> Recipe:
    """Returns the recipe with a batch that `replicas` devices can share out equally: rounded up, with a warning.

    A batch of more images than there are is cut down to these, for the rest of it would be padding.

    A run keeps the batch that it was started with: on another number of replicas it goes on only if they can share
    out that one, because its steps and epochs are counted in it.

    Args:
      recipe: what the flags ask for.
      replicas: number of devices.
      num_train: examples in the training split, if it is known.
      directory: the run's, if it may have one already.

    Raises:
      UsageError: the replicas cannot share out the run's batch, `accumulate` does not divide a replica's part, or a
        replica's pieces cannot be mixed in pairs.
    """
    asked = recipe.batch_size
    run = _run_in(directory) if directory else None
    if run and run.get(_ASKED, run["recipe"]["batch_size"]) == asked:
        size = run["recipe"]["batch_size"]
        if size % replicas:
            raise UsageError(
                f"--run={directory} holds a run in batches of {size}, which {replicas} replicas cannot share out "
                f"equally; go on with a number of replicas that divides {size}, or take another --run"
            )
    else:
        size = _round_up(asked, replicas)
        # An even part for each, which mixing in pairs needs.
        if num_train and (enough := _round_up(num_train, 2 * replicas * recipe.accumulate)) < size:
            logging.warning("batch_size=%d is more than the %d training images: it is %d now", asked, num_train, enough)
            asked = size = enough
    if size // replicas % recipe.accumulate:
        pieces = replicas * recipe.accumulate
        raise UsageError(
            f"batch_size={asked} gives each of {replicas} replicas {size // replicas} images, which "
            f"accumulate={recipe.accumulate} cannot cut into equal pieces; "
            f"--set=batch_size={_round_up(asked, pieces)} works, or accumulate=1"
        )
    fitted = dataclasses.replace(recipe, batch_size=size)
    if recipe.augment.on_accelerator and (why := fitted.unpaired(replicas)):
        raise UsageError(f"{why}, and so does --set=augment.on_accelerator=false, with which the host mixes")
    if size != asked:
        logging.warning(
            "batch_size=%d cannot be shared out equally to %d replicas: it is %d now", asked, replicas, size
        )
    return fitted


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def settings(
    request: Request, data: DatasetVersion, recipe: Recipe, *, asked_batch_size: int, cores: int
) -> dict[str, Any]:
    """Returns what config.json holds: all that decides what the run computes."""
    rounded = {} if asked_batch_size == recipe.batch_size else {_ASKED: asked_batch_size}
    fitted = {_CORES: cores} if cores else {}
    return {
        _DATA: request.data,
        "dataset_version": data.manifest.version,
        "dataset_fingerprint": data.manifest.source_fingerprint,
        "labels": list(data.manifest.labels),
        "seed": request.seed,
        **rounded,
        **fitted,
        **own.record(own.own_code(request.recipe, recipe)),
        "recipe": overrides.to_dict(recipe),
    }


def refuse_another_run(directory: storage.Path, wanted: dict[str, Any], *, extensions: int = 0) -> None:
    """Raises UsageError, listing what differs, if `directory` holds a run of other settings that has got somewhere.

    Where the dataset lies is no setting: its fingerprint says whether it is the same. Nor is where code of the user's
    own lies, whose source says it.

    Args:
      directory: of the run.
      wanted: what config.json is to hold.
      extensions: number of phases at the end that the run may not have yet.
    """
    run = _run_in(directory)
    if run is None:
        return
    own.refuse_changed_code(directory, run, wanted)
    wanted = own.alike(run, wanted)
    phases, known = wanted["recipe"]["phases"], len(run["recipe"]["phases"])
    if len(phases) - extensions <= known < len(phases):
        wanted = wanted | {"recipe": wanted["recipe"] | {"phases": phases[:known]}}
    if changed := overrides.differences(run | {_DATA: wanted.get(_DATA)}, wanted):
        lines = "\n  ".join(changed)
        raise UsageError(
            f"--run={directory} holds a run with another configuration:\n  {lines}\n"
            "take another --run, or go on with the old configuration; its recipe is "
            f"--recipe={storage.join(directory, 'config.json')}, in place of --recipe and --set"
        )


def refuse_another_request(directory: storage.Path, request: Request, data: DatasetVersion, recipe: Recipe) -> None:
    """Raises what `refuse_another_run` would, as far as that can be told before the devices are known.

    They decide about the batch; on a TPU about more; and --skip_bad_records about the dataset.

    Args:
      directory: of the run.
      request: what is asked for.
      data: the dataset that it names.
      recipe: the one that it means.
    """
    run = _run_in(directory)
    if run is None or run.get(_CORES) or request.skip_bad_records:
        return
    size = run["recipe"].get("batch_size", recipe.batch_size)
    recipe = dataclasses.replace(recipe, batch_size=size)
    asked = run.get(_ASKED, size)
    wanted = settings(request, data, recipe, asked_batch_size=asked, cores=0)
    refuse_another_run(directory, wanted, extensions=len(request.extend))


def read_config(run: storage.Path) -> dict[str, Any]:
    """Reads the config.json of a run: `data`, `seed`, `labels`, `recipe` and more.

    Raises:
      UsageError: `run` is no run.
      DataError: the file is damaged.
    """
    file = storage.join(run, "config.json")
    if not storage.exists(file):
        raise UsageError(f"--run={run}: no config.json there; {kinds.no_run(os.fspath(run))}")
    try:
        return json.loads(storage.read_text(file))
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error})") from error


def check_has_weights(run: storage.Path) -> None:
    """Checks that a run has weights to be exported.

    Raises:
      UsageError: `run` is no run, or has none yet.
      DataError: its configuration is damaged.
    """
    read_config(run)
    if not storage.exists(storage.join(run, "checkpoints", "best.npz")):
        raise UsageError(f"--run={run}: no finished weights in this run yet; run trainer.main to its end")


def load_run(run: storage.Path) -> tuple[Classifier, Recipe, list[str]]:
    """Rebuilds the classifier that a finished run has exported; returns it with its recipe and label names."""
    config = read_config(run)
    recipe = overrides.from_dict(Recipe, own.recorded_recipe(config, run))
    # Takes seconds: TensorFlow.
    from trainer.train.checkpoint import load_best
    from trainer.train.model import build_from_recipe

    classifier = build_from_recipe(recipe, num_classes=len(config["labels"]), seed=config["seed"], weights="none")
    load_best(storage.join(run, "checkpoints"), classifier)
    if storage.exists(result := storage.join(run, "result.json")):
        classifier.scale_logits(1 / json.loads(storage.read_text(result)).get("temperature", 1.0))
    return classifier, recipe, config["labels"]


def provenance(data: DatasetVersion, *, seed: int, devices: Sequence[str], started: str) -> dict[str, Any]:
    """Returns what provenance.json holds: dataset, commit, packages, seed, devices, times (`started` from `now`)."""
    manifest = data.manifest
    return {
        "dataset": {"name": manifest.name, "version": manifest.version, "fingerprint": manifest.source_fingerprint},
        "git_commit": _git_commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "seed": seed,
        "devices": list(devices),
        "started": started,
        "finished": now(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Returns the commit of this code, or None where it is not run from a git checkout."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """Returns the time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
