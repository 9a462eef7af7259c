"""Decides where a run's images lie between epochs, and lays small datasets on the devices themselves."""

from __future__ import annotations

import tensorflow as tf
from absl import logging

from pipeline import residence
from pipeline.command import UsageError
from pipeline.format.manifest import DatasetVersion
from pipeline.resident import Resident
from trainer.devices.chips import find_chips
from trainer.devices.strategy import is_tpu, reads_elsewhere
from trainer.devices.workers import Workers
from trainer.recipes.recipe import Recipe
from trainer.train.obstacle import most_bytes, obstacle


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
    limit = most_bytes(find_chips().generation) if tpu else residence.MOST_BYTES
    why = obstacle(recipe, data.manifest, replicas=strategy.num_replicas_in_sync, limit=limit)
    if not why and Workers(strategy).count > 1:
        why = "TensorFlow sends no images (uint8) from one worker of TF_CONFIG to the others, as it does variables"
    if why and asked == "device":
        raise UsageError(f"--cache=device: {why}")
    if why:
        logging.info("images come from the host: %s", why)
        return on_host, None
    mebibytes = residence.size(data.manifest) / 2**20
    logging.info("cache=device: all images, %.1f MiB, lie on every device, which renders them", mebibytes)
    with strategy.scope():
        return on_host, Resident.load(data, height=recipe.image_size, width=recipe.image_size)
