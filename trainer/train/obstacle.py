"""Says whether a run's images can lie on the devices between epochs. Free of TensorFlow.

The rule. On a TPU a dataset lies on the chips if its decoded images take at most a 32nd of a chip's memory (504 MiB on
v5e; CIFAR-10 takes 176 MiB), 1 GiB at most, and if the chips can do all that is done to them. CPUs and GPUs do so only
when asked: there the host has time and links enough.
"""

from __future__ import annotations

from pipeline import residence
from pipeline.format.manifest import Manifest
from trainer.devices.tpus import GENERATIONS
from trainer.recipes.recipe import Recipe

_SHARE_OF_CHIP = 1 / 32


def most_bytes(generation: str | None) -> int:
    """Returns how many bytes of images may lie on a chip; of an unknown generation, as on the smallest one."""
    limits = {name: known.memory_limit for name, known in GENERATIONS.items()}
    return min(residence.MOST_BYTES, int(limits.get(generation or "", min(limits.values())) * _SHARE_OF_CHIP))


def obstacle(
    recipe: Recipe, manifest: Manifest, *, replicas: int | None = None, limit: int = residence.MOST_BYTES
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
    return residence.obstacle(
        manifest, recipe.augmentation(augments), height=size, width=size, view=recipe.view, limit=limit
    )
