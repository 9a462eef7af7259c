"""Refuses what is wrong with a request before TensorFlow is imported, which takes seconds. Free of TensorFlow.

What only devices can tell, such as whether they can share out the batch, is refused later, by `rundir` and `train`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from pipeline.command import UsageError
from pipeline.format import kinds
from pipeline.format.manifest import DatasetVersion
from pipeline.format.places import check_folder, check_nothing_is_lost
from pipeline.own_code import is_own
from trainer.devices.choice import choose
from trainer.devices.cluster import read_cluster
from trainer.devices.tpu.hosts import TpuPlace
from trainer.models.backbones import backbone_info, check_size
from trainer.models.weights import find_export, find_weights
from trainer.recipes.load import resolve
from trainer.recipes.recipe import Recipe
from trainer.request import Request
from trainer.rundir import refuse_another_request
from trainer.train.obstacle import obstacle

_CHECKPOINTS = 3  # two are kept while the next one is written
_EXPORTS = 3  # SavedModel, Keras, LiteRT
# What a run writes, under names that others might use, too.
_WRITTEN = (
    *("config.json", "result.json", "provenance.json", "report.html", "model_card.md", "metrics.csv", "metrics.jsonl"),
    *("checkpoints", "events", "export", "features"),
)
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # of an optimizer for each weight
_BYTES = 4  # of a float32
_LEAST = 16 << 20  # also of a backbone of the user's own, whose size only its layers tell
_REDUCTION = {"cifar10_cnn": 4}  # of a side by a backbone; else 32


def check_request(request: Request, data: DatasetVersion) -> Recipe:
    """Returns the recipe that a request means on a dataset, if its model can be built.

    Raises:
      UsageError: an unknown name or setting, weights that are not there, images too small for the backbone.
      DataError: the dataset cannot be trained on.
    """
    recipe = resolve(request, data)
    check_model(recipe)
    return recipe


def check_model(recipe: Recipe) -> None:
    """Raises UsageError if a recipe's weights or a library that it needs are absent, or its images too small."""
    side = recipe.image_size if recipe.resize_to is None else recipe.resize_to
    check_size(recipe.backbone, side, side)
    if recipe.init:
        find_export(recipe.init)
    find_weights(recipe.backbone, recipe.first_weights)
    policy = recipe.augment.policy
    if policy and not is_own(policy) and not importlib.util.find_spec("keras_cv"):
        raise UsageError(f"augment.policy={policy} needs keras-cv: pip install keras-cv")


def check_run(
    request: Request,
    data: DatasetVersion,
    workdir: str,
    *,
    strategy: str,
    tpu: TpuPlace | None,
    cache: str,
    environment: Mapping[str, str],
) -> None:
    """Checks all that a training run needs and that can be told without a device.

    Args:
      request: what to train.
      data: the dataset that it names.
      workdir: of the run.
      strategy: one of `request.STRATEGIES`.
      tpu: where the TPU is that trains, if one does.
      cache: one of `request.CACHES`.
      environment: of the process, for TF_CONFIG.

    Raises:
      UsageError: a flag is wrong, contradicts another one or the environment, or the run's folder: that holds another
        run, cannot be written, or has no room.
      DataError: the dataset cannot be trained on.
    """
    recipe = check_request(request, data)
    cluster = read_cluster(environment)
    chosen = choose(strategy, tpu=tpu.target if tpu else "", cluster=cluster)
    if cache == "device" and (why := obstacle(recipe, data.manifest)):
        raise UsageError(f"--cache=device: {why}")
    check_nothing_is_lost(workdir, flag="run", kind=kinds.RUN, writes=_WRITTEN)
    refuse_another_request(workdir, request, data, recipe)
    if (chosen == "multiworker" and cluster and cluster.index > 0) or (tpu and not tpu.trains):
        return  # another process writes
    needs = disk_needs(recipe, num_classes=data.manifest.num_classes)
    check_folder(workdir, flag="run", needs=needs, for_what="checkpoints, the best weights and the export")


def disk_needs(recipe: Recipe, *, num_classes: int) -> int:
    """Estimates the bytes that a run writes at most at one time: its weights, so many times.

    Args:
      recipe: what is trained.
      num_classes: labels.
    """
    info, side = backbone_info(recipe.backbone), recipe.resize_to or recipe.image_size
    positions = (side // _REDUCTION.get(info.name, 32)) ** 2 if recipe.head.pooling == "flatten" else 1
    features, hidden = info.features * positions, recipe.head.hidden
    weights = info.parameters + features * (hidden or num_classes) + hidden * num_classes
    states = 1 + _STATES[recipe.optimizer.name] + (recipe.ema_decay > 0)
    return max(_LEAST, weights * _BYTES * (_CHECKPOINTS * states + 1 + _EXPORTS))
