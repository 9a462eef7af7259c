"""Says how a value of a recipe is given, where somebody gives it as a flag: `--set=` in place of `--lr`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping

from pipeline.augment.config import AugmentConfig
from trainer.models.head import HeadConfig
from trainer.recipes.recipe import OptimizerConfig, Phase, Recipe

# What other tools call it; what it is here, an example of a value, and what follows a bare number.
_ELSEWHERE = {
    "epochs": ("phases.1.duration", "10ep", "ep"),
    "num_epochs": ("phases.1.duration", "10ep", "ep"),
    "steps": ("phases.1.duration", "500st", "st"),
    "lr": ("phases.1.lr_max", "1e-4", ""),
    "learning_rate": ("phases.1.lr_max", "1e-4", ""),
    "batch": ("batch_size", "32", ""),
    "img_size": ("image_size", "224", ""),
    "size": ("image_size", "224", ""),
    "optimizer": ("optimizer.name", "adamw", ""),
    "freeze": ("phases.1.trainable", "…", ""),
}
_GROUPS: Mapping[str, type] = {
    "": Recipe,
    "phases.1.": Phase,
    "head.": HeadConfig,
    "optimizer.": OptimizerConfig,
    "augment.": AugmentConfig,
}


def set_instead(name: str, value: str) -> str | None:
    """Returns what to give in place of a flag; None where no value of a recipe is called so.

    Args:
      name: of the flag.
      value: that it was given; empty where that stood behind it.
    """
    key, example, unit = _ELSEWHERE.get(name) or (_key(name), "…", "")
    if not key:
        return None
    asked = value + unit * value.isdecimal() or example
    phase = " (phases count from 0: 1 is the second)" if key.startswith("phases.") else ""
    return f"that is a value of the recipe; give --set={key}={shlex.quote(asked)}{phase}"


def _key(name: str) -> str | None:
    for prefix, kind in _GROUPS.items():
        if name in {field.name for field in dataclasses.fields(kind)}:
            return prefix + name
    return None
