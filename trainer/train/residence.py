"""Decides where a run's images lie between epochs, and lays small datasets on the devices themselves.

The rule. On a TPU a dataset lies on the chips if its decoded images take at most a 32nd of a chip's memory (504 MiB on
v5e; CIFAR-10 takes 176 MiB), 1 GiB at most, and if the chips can do all that is done to them. CPUs and GPUs do so only
when asked: there the host has time and links enough.
"""

from __future__ import annotations

import tensorflow as tf
from absl import logging

from pipeline import resident
from pipeline.command import UsageError
from pipeline.format.manifest import DatasetVersion, Manifest
from pipeline.resident import Resident
from trainer.devices.chips import find_chips
from trainer.devices.cluster import Workers
from trainer.devices.strategy import is_tpu, reads_elsewhere
from trainer.devices.tpus import GENERATIONS
from trainer.recipes.recipe import Recipe

_SHARE_OF_CHIP = 1 / 32


def most_bytes(generation: str | None) -> int:
    """Returns how many bytes of images may lie on a chip; of an unknown generation, as on the smallest one."""
    limits = {name: known.memory_limit for name, known in GENERATIONS.items()}
    return min(resident.MOST_BYTES, int(limits.get(generation or "", min(limits.values())) * _SHARE_OF_CHIP))


def obstacle(
    recipe: Recipe, manifest: Manifest, *, replicas: int | None = None, limit: int = resident.MOST_BYTES
) -> str | None:
    """Says why a recipe's images cannot be kept on the devices and rendered there; None if they can.

    Args:
      recipe: says what is done with them.
      manifest: says how many there are.
      replicas: devices, if they are known.
      limit: bytes that all images may take.
    """
    augments = any(phase.augment for phase in recipe.phases)
    if augments and replicas and (why := recipe.unpaired(replicas)):
        return why
    size = recipe.image_size
    return resident.obstacle(
        manifest, recipe.augmentation(augments), height=size, width=size, view=recipe.view, limit=limit
    )


def place(
    asked: str, recipe: Recipe, data: DatasetVersion, strategy: tf.distribute.Strategy
) -> tuple[str, Resident | None]:
    """Chooses a cache, and loads what is to lie on the devices.

    Args:
      asked: one of `request.CACHES`.
      recipe: that trains.
      data: what it trains on.
      strategy: of the devices.

    Returns:
      The host's cache, one of `reader.CACHES` but "device", and the images on the devices, if they lie there.

    Raises:
      UsageError: what is asked for cannot be done.
    """
    elsewhere, tpu = reads_elsewhere(strategy), is_tpu(strategy)
    if elsewhere and asked in ("bytes", "pixels", "disk"):
        raise UsageError(
            f"--cache={asked}: the TPU's hosts see nothing of this machine's memory and disk; take none, device or auto"
        )
    on_host = "none" if elsewhere or asked == "none" else "auto" if asked == "device" else asked
    if asked != "device" and not (asked == "auto" and tpu):
        return on_host, None
    limit = most_bytes(find_chips().generation) if tpu else resident.MOST_BYTES
    why = obstacle(recipe, data.manifest, replicas=strategy.num_replicas_in_sync, limit=limit)
    if not why and Workers(strategy).count > 1:
        why = "TensorFlow sends no images (uint8) from one worker of TF_CONFIG to the others, as it does variables"
    if why and asked == "device":
        raise UsageError(f"--cache=device: {why}")
    if why:
        logging.info("images come from the host: %s", why)
        return on_host, None
    mebibytes = resident.size(data.manifest) / 2**20
    logging.info("cache=device: all images, %.1f MiB, lie on every device, which renders them", mebibytes)
    with strategy.scope():
        return on_host, Resident.load(data, height=recipe.image_size, width=recipe.image_size)
