"""Makes a `Report` on a recipe: lowers its steps, has them compiled, finds the largest batch, measures the input."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import time
from collections.abc import Sequence

from absl import logging

from pipeline.format.manifest import DatasetVersion
from trainer.devices.tpus import Slice
from trainer.preflight import feeding
from trainer.preflight.batches import Attempt, largest_batch
from trainer.preflight.compiling import Compiled, Compiler
from trainer.preflight.facts import Counts, counts_of, published_counts
from trainer.preflight.findings import Report, Searched, Step, Work
from trainer.preflight.lowering import Lowering, Program
from trainer.recipes import overrides
from trainer.recipes.fitting import fit_to_tpu
from trainer.recipes.load import load_recipe
from trainer.recipes.recipe import Recipe

_PARALLEL_COMPILES = 4  # each takes one core and up to 2 GB


def examine(
    *,
    recipe_name: str,
    backbone: str | None,
    settings: Sequence[str],
    data: DatasetVersion | None,
    num_train: int | None,
    num_classes: int | None,
    target: Slice,
    compiler: Compiler,
    search: bool,
) -> Report:
    """Examines a recipe on a slice.

    Args:
      recipe_name: as in `--recipe`.
      backbone: another one than the recipe's own, or None.
      settings: overrides, as in `--set`.
      data: a dataset, or None: then `num_train` and `num_classes`, or the counts that the recipe was published with.
      num_train: training images, or None.
      num_classes: labels, or None.
      target: the slice.
      compiler: for its chips.
      search: whether to look for the largest batch.

    Raises:
      UsageError: no such recipe or setting.
      DataError: nothing to train on.
      CommandError: the step cannot be lowered, or the compiler crashed.
    """
    counts = counts_of(data) if data else _assumed(recipe_name, num_train, num_classes)
    recipe = load_recipe(recipe_name, counts.facts, backbone=backbone)
    recipe = overrides.override(recipe, settings)
    if not recipe_name.endswith(".json"):
        given = {setting.partition("=")[0] for setting in settings}
        recipe = fit_to_tpu(recipe, cores=target.chips, num_train=counts.train, given=given)
    recipe, notes = split_batch(recipe, target.chips)
    study = _Study(recipe, counts, target, compiler)
    steps, work = study.steps()
    searched = study.search(steps) if search else None
    feed = feeding.measure(recipe, data, side=counts.side)
    precision = "float32" if recipe.precision == "float32" else "bfloat16"
    size = f"{recipe.image_size}" + (f" → {recipe.resize_to}" if recipe.resize_to else "")
    return Report(
        title=f"recipe {recipe.name}: {recipe.backbone} at {size} pixels, {precision}, batch {recipe.batch_size}",
        data=f"{counts.train:,} training and {counts.validation:,} validation images, {counts.classes} classes "
        f"({counts.origin})",
        notes=notes,
        steps=tuple(steps),
        work=tuple(work),
        searched=searched,
        channel_fill=study.channel_fill(),
        feed={"core_seconds": feed.core_seconds, "cores": feed.cores, "sample": feed.sample},
        versions=compiler.versions,
    )


def _assumed(recipe_name: str, num_train: int | None, num_classes: int | None) -> Counts:
    counts = published_counts(recipe_name)
    if num_train is None and num_classes is None:
        return dataclasses.replace(counts, origin=f"{counts.origin}; --data or --num_train and --num_classes say yours")
    return dataclasses.replace(
        counts,
        train=counts.train if num_train is None else num_train,
        validation=counts.validation if num_train is None else 0,
        classes=counts.classes if num_classes is None else num_classes,
        origin="as the flags say",
    )


def split_batch(recipe: Recipe, chips: int) -> tuple[Recipe, tuple[str, ...]]:
    """Returns the recipe with a batch that the chips can share, and what to tell the user about it."""
    pieces = chips * recipe.accumulate
    batch = math.ceil(recipe.batch_size / pieces) * pieces
    if batch == recipe.batch_size:
        return recipe, ()
    note = (
        f"batch {recipe.batch_size} cannot be shared by {chips} chips"
        + (f" in {recipe.accumulate} pieces" if recipe.accumulate > 1 else "")
        + f"; {batch} is assumed: train with --set=batch_size={batch}"
    )
    return dataclasses.replace(recipe, batch_size=batch), (note,)


class _Study:
    """Studies one recipe on one slice."""

    def __init__(self, recipe: Recipe, counts: Counts, target: Slice, compiler: Compiler) -> None:
        self._recipe, self._counts, self._target, self._compiler = recipe, counts, target, compiler
        self._per_epoch = math.ceil(counts.train / recipe.batch_size)
        self._lowering = Lowering(recipe, num_classes=counts.classes, chips_of_host=target.chips_of_host)

    def steps(self) -> tuple[list[Step], list[Work]]:
        """Compiles what the recipe consists of: a training step for every phase, and evaluation."""
        recipe, per_epoch = self._recipe, self._per_epoch
        batch = recipe.batch_size // self._target.chips
        programs = [self._train(index, batch) for index in range(len(recipe.phases))]
        programs.append(self._lowering.forward(batch=batch))
        names = [f"phase {phase.name}" for phase in recipe.phases] + ["evaluation"]
        compiled = self._compile_all(names, programs)
        gradients = [self._lowering.gradient_bytes(phase) for phase in recipe.phases] + [0]
        steps = [
            Step(name=name, compiled=c, product_flops=program.flops, gradient_bytes=size)
            for name, c, program, size in zip(names, compiled, programs, gradients, strict=True)
        ]
        work = []
        evaluation = len(steps) - 1
        passes = math.ceil(self._counts.validation / recipe.batch_size)
        for index, phase in enumerate(recipe.phases):
            count = phase.steps(steps_per_epoch=per_epoch)
            epochs = math.ceil(count / per_epoch)
            if phase.cached_features:
                work.append(
                    Work(name=f"{names[index]}: features", step=evaluation, count=per_epoch + passes, needs_input=True)
                )
            work.append(Work(name=names[index], step=index, count=count, needs_input=not phase.cached_features))
            if passes and not phase.cached_features:
                validation = f"{names[index]}: validation"
                work.append(Work(name=validation, step=evaluation, count=passes * epochs, needs_input=True))
        return steps, work

    def channel_fill(self) -> float:
        return self._lowering.channel_fill(self._target.generation.matrix_unit)

    def search(self, steps: Sequence[Step]) -> Searched | None:
        """Looks for the largest batch a chip of the phase that takes the most memory."""
        phases = [i for i, phase in enumerate(self._recipe.phases) if not phase.cached_features]
        phases = phases or list(range(len(self._recipe.phases)))
        index = max(phases, key=lambda i: steps[i].compiled.needed)
        first = steps[index].compiled
        if not first.fits and not first.out_of_memory:
            return None

        tried = {first.batch: steps[index]}

        def attempt(batch: int) -> Attempt:
            program = self._train(index, batch)
            compiled = self._compile(f"{steps[index].name}, {batch} images", program)
            tried[batch] = dataclasses.replace(steps[index], compiled=compiled, product_flops=program.flops)
            return _attempt(compiled)

        images = math.ceil(self._counts.train / self._target.chips)
        found = largest_batch(
            attempt,
            _attempt(first),
            limit=first.limit or self._target.generation.memory_limit,
            most=max(images, first.batch),
        )
        return Searched(
            name=steps[index].name, largest=tried.get(found.largest), too_large=found.too_large, images=images
        )

    def _train(self, index: int, batch: int) -> Program:
        phase = self._recipe.phases[index]
        return self._lowering.train_step(phase, batch=batch, steps_per_epoch=self._per_epoch)

    def _compile_all(self, names: Sequence[str], programs: Sequence[Program]) -> list[Compiled]:
        workers = min(_PARALLEL_COMPILES, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self._compile, names, programs))

    def _compile(self, name: str, program: Program) -> Compiled:
        logging.info("compiling %s for %s", name, self._target.generation.name)
        start = time.monotonic()
        compiled = self._compiler.compile(program.hlo, text_digest=program.digest, batch=program.batch)
        outcome = "fits" if compiled.fits else "does not fit" if compiled.out_of_memory else "does not compile"
        logging.info("compiled %s in %.0f s: %s", name, time.monotonic() - start, outcome)
        return compiled


def _attempt(compiled: Compiled) -> Attempt:
    return Attempt(batch=compiled.batch, needed=compiled.needed, fits=compiled.fits)
