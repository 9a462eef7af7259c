"""Finds a recipe by its name, and makes of a request the recipe that a run follows."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
from collections.abc import Iterable

from pipeline.command import DataError, UsageError, nearest
from pipeline.format import storage
from pipeline.format.manifest import TRAIN, DatasetVersion
from pipeline.own_code import is_own
from trainer import recipes
from trainer.models import backbone_info
from trainer.models.weights import IMAGENET, NONE
from trainer.recipes import overrides, own
from trainer.recipes.recipe import DataFacts, Recipe
from trainer.recipes.schedule import Duration
from trainer.request import Request

_NOT_RECIPES = ("fitting", "load", "overrides", "own", "recipe", "schedule")  # what else lies in the folder


def recipe_names() -> list[str]:
    return sorted({module.name for module in pkgutil.iter_modules(recipes.__path__)} - set(_NOT_RECIPES))


def load_recipe(name: str, facts: DataFacts, *, backbone: str | None = None) -> Recipe:
    """Builds the recipe `name` for a data set, or reads one back from a run's config.json.

    Args:
      name: of a file in trainer/recipes; the path of a user's own file of that kind (`.py`), or of a config.json, whose
        own code is that which lies in the run.
      facts: what the recipe may derive its settings from.
      backbone: another one than the recipe's own; sizes that a recipe takes from it follow. A config.json ignores it.

    Raises:
      UsageError: no such recipe (names the nearest), an invalid file, or what the user's own does wrong.
    """
    if name.endswith(".json"):
        try:
            config = json.loads(storage.read_text(name))
            return overrides.from_dict(Recipe, own.recorded_recipe(config, os.path.dirname(name)))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UsageError(f"--recipe={name}: not the config.json of a run: {error}") from error
    if name.endswith(".py"):
        return own.own_recipe(name, facts, backbone=backbone)
    names = recipe_names()
    if name not in names:
        file = f" Did you mean --recipe=./{name}.py?" if os.path.isfile(f"{name}.py") else nearest(name, names)
        raise UsageError(f"--recipe={name}: no such recipe; there are {', '.join(names)}.{file}")
    build = importlib.import_module(f"trainer.recipes.{name}").recipe
    return build(facts, backbone_info(backbone).name) if backbone else build(facts)


def named_backbone(name: str, backbone: str | None, settings: Iterable[str]) -> str | None:
    """Returns the backbone that flags name: `--set=backbone=NAME` counts before `--backbone=NAME`.

    A recipe derives sizes and what it freezes from its backbone, so it has to know it before it is overridden. A user's
    own file may take none; its recipe is only overridden.

    Args:
      name: of the recipe.
      backbone: the value of --backbone.
      settings: the values of --set.
    """
    if name.endswith(".py"):
        return backbone
    given = overrides.split(settings).get("backbone")
    return backbone if given is None else given.strip('"')


def adjust(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Applies `--set` assignments to a recipe; a phase that is given no length (`0ep`) is left out then.

    Raises:
      UsageError: see `overrides.override`; or no phase is left.
    """
    recipe = overrides.override(recipe, settings)
    phases = tuple(phase for phase in recipe.phases if phase.duration.value)
    if not phases:
        raise UsageError(f"--set: every phase of recipe {recipe.name} has no length; one must have some, e.g. 5ep")
    return dataclasses.replace(recipe, phases=phases)


def extended(recipe: Recipe, durations: Iterable[str]) -> Recipe:
    """Appends the last phase to a recipe once more for each of `durations`, and so long; a warm restart.

    Restarts: SGDR, arXiv 1608.03983.

    Raises:
      UsageError: what is no duration of a phase.
    """
    *_, last = phases = recipe.phases
    for text in durations:
        try:
            more = dataclasses.replace(last, name=f"{phases[-1].name}+{text}", duration=Duration.parse(text))
        except ValueError as error:
            raise UsageError(f"--extend={text}: {error}") from error
        if not more.duration.value:
            raise UsageError(f"--extend={text}: no length; give some, e.g. 5ep")
        phases = (*phases, more)
    return dataclasses.replace(recipe, phases=phases)


def facts_of(data: DatasetVersion) -> DataFacts:
    """Says what a recipe may derive its settings from; DataError if there is nothing to train on."""
    manifest = data.manifest
    if TRAIN not in manifest.splits or not manifest.num_examples(TRAIN):
        raise DataError(f"{data.path}: no examples in split {TRAIN}; it has {', '.join(manifest.splits)}")
    return DataFacts(
        num_train=manifest.num_examples(TRAIN),
        num_classes=manifest.num_classes,
        max_side=max(manifest.max_height, manifest.max_width),
    )


def asked_for(request: Request, facts: DataFacts, *, backbone: str | None) -> Recipe:
    """Loads the recipe that a request names, and applies its flags.

    Args:
      request: what a run is asked for.
      facts: what the recipe may derive its settings from.
      backbone: as `load_recipe` takes it.

    Raises:
      UsageError: no such recipe, or a wrong override.
    """
    recipe = load_recipe(request.recipe, facts, backbone=backbone)
    start = {"weights": request.weights, "init": request.init}
    given = [f"{name}={value}" for name, value in start.items() if value]
    return extended(adjust(recipe, [*given, *request.settings]), request.extend)


def resolve(request: Request, data: DatasetVersion) -> Recipe:
    """Returns the recipe that a request means on a dataset, flags applied.

    Raises:
      UsageError: no such recipe, a wrong override, or schedules that do not fit their phases.
      DataError: the dataset cannot be trained on.
    """
    facts = facts_of(data)
    if facts.num_classes < 2:
        raise DataError(f"{data.path}: one label only ({data.manifest.labels[0]}); a classifier needs two or more")
    backbone = named_backbone(request.recipe, request.backbone, request.settings)
    recipe = asked_for(request, facts, backbone=backbone)
    if is_own(recipe.backbone) and recipe.weights == IMAGENET:
        if request.weights or "weights" in overrides.split(request.settings):
            raise UsageError(
                f"weights={IMAGENET}: {recipe.backbone} is your own, and has the weights that it gives its layers; "
                "leave this out, or name a file"
            )
        recipe = dataclasses.replace(recipe, weights=NONE)
    paths = {name: os.path.expanduser(getattr(recipe, name)) for name in ("weights", "init")}
    recipe = dataclasses.replace(recipe, **paths)
    check_schedules(recipe, data)
    return own.spelt_out(recipe)


def check_schedules(recipe: Recipe, data: DatasetVersion) -> None:
    """Raises UsageError if a phase's schedule does not fit into its steps."""
    for phase in recipe.phases:
        phase.learning_rates(steps_per_epoch=-(-data.manifest.num_examples(TRAIN) // recipe.batch_size))
