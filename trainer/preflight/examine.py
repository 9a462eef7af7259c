"""Makes a `Report` on a recipe: lowers its steps, has them compiled, finds the largest batch, measures the input."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
import time
from collections.abc import Iterator, Sequence

from absl import logging

from pipeline import residence
from pipeline.format.manifest import DatasetVersion, Manifest
from trainer.devices.tpus import Slice
from trainer.preflight import feeding
from trainer.preflight.batches import Attempt, largest_batch
from trainer.preflight.compiling import Compiled, Compiler
from trainer.preflight.facts import Counts, asked_for
from trainer.preflight.findings import Report, Searched, Step, Work
from trainer.preflight.lowering import Lowering, Program
from trainer.preflight.question import Question
from trainer.recipes import overrides
from trainer.recipes.fitting import fit_to_tpu, fitting_batch, images_a_core
from trainer.recipes.recipe import Recipe
from trainer.train.obstacle import most_bytes, obstacle

_PARALLEL_COMPILES = 4  # each takes one core and up to 2 GB


def examine(question: Question, compiler: Compiler) -> Iterator[Report]:
    """Examines a recipe on a slice; yields a report whenever there is more to say, with all that was said before.

    The steps come one by one, then the whole recipe, then the largest batch.

    Args:
      question: what is asked.
      compiler: for the slice.

    Raises:
      UsageError: no such recipe or setting.
      DataError: nothing to train on.
      CommandError: the step cannot be lowered, or the compiler crashed.
    """
    subject = as_it_runs(question)
    recipe, counts = subject.recipe, subject.counts
    study = _Study(subject, question.target, compiler)
    precision = "float32" if recipe.precision == "float32" else "bfloat16"
    pixels = f"{recipe.image_size}" + (f" → {recipe.resize_to}" if recipe.resize_to else "")
    report = Report(
        title=f"recipe {recipe.name}: {recipe.backbone} at {pixels} pixels, {precision}, batch {recipe.batch_size}",
        data=f"{counts.train:,} training and {counts.validation:,} validation images, {counts.classes} classes "
        f"({counts.origin})",
        notes=subject.notes,
        steps=(),
        work=tuple(study.work()),
        searched=None,
        channel_fill=study.channel_fill(),
        feed=None,
        versions=compiler.versions,
        programs=(),
    )
    for step in study.steps():
        report = dataclasses.replace(report, steps=(*report.steps, step), programs=tuple(study.programs))
        yield report
    feed = subject.feed(question.data)
    measured = {"core_seconds": feed.core_seconds, "cores": feed.cores, "machine": feed.machine, "sample": feed.sample}
    report = dataclasses.replace(report, feed=measured)
    yield report
    if question.search:
        searched = study.search(report.steps, compiles=question.search)
        yield dataclasses.replace(report, searched=searched, programs=tuple(study.programs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """Holds what is examined.

    Attributes:
      recipe: as it runs on the slice.
      counts: of the images.
      kept: of the dataset whose images lie on the chips, or None.
      notes: what to tell the user of it.
    """

    recipe: Recipe
    counts: Counts
    kept: Manifest | None
    notes: tuple[str, ...]

    def feed(self, data: DatasetVersion | None) -> feeding.Feed:
        """Measures what an image costs this host; `data`: as for `feeding.measure`."""
        return feeding.measure(self.recipe, data, side=self.counts.side, resident=self.kept is not None)


def as_it_runs(question: Question) -> Subject:
    """Says what runs on the slice that is asked about; raises as `examine` does."""
    data, chips = question.data, question.target.chips
    recipe, counts = asked_for(question)
    if not question.recipe.endswith(".json"):
        recipe = fit_to_tpu(recipe, cores=chips, num_train=counts.train, given=overrides.split(question.settings))
    recipe, notes = split_batch(recipe, chips)
    notes += notes_on_batch(recipe, chips=chips, num_train=counts.train)
    notes += tuple(
        f"phase {phase.name}: the host solves for the head, which takes no chip; its time is not in this"
        for phase in recipe.phases
        if phase.solves
    )
    manifest, limit = data.manifest if data else counts.manifest(), most_bytes(question.target.generation.name)
    if obstacle(recipe, manifest, replicas=chips, limit=limit):
        return Subject(recipe=recipe, counts=counts, kept=None, notes=notes)
    size = residence.size(manifest) >> 20
    notes += (f"all images, {size} MiB, lie on every chip, which renders them (--cache=none would not)",)
    return Subject(recipe=recipe, counts=counts, kept=manifest, notes=notes)


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


def notes_on_batch(recipe: Recipe, *, chips: int, num_train: int) -> tuple[str, ...]:
    """Says whether a chip gets too few images to be filled, and the number to use instead."""
    each, enough = recipe.batch_size // chips, images_a_core(recipe.resize_to or recipe.image_size)
    if each >= enough:
        return ()
    batch = fitting_batch(recipe, cores=chips, num_train=num_train)
    few = f"{each} image{'' if each == 1 else 's'} a chip cannot fill it, and what is likely holds for filled chips"
    if batch > recipe.batch_size:
        return (
            f"{few}: --set=batch_size={batch} gives {batch // chips}; the learning rates are this recipe's own for "
            f"{recipe.batch_size}, so set them, too",
        )
    return (
        f"{few}; {enough} would, but {num_train:,} images are too few for a larger batch: "
        f"{max(1, recipe.batch_size // enough)} chip{'' if recipe.batch_size < 2 * enough else 's'} would do as well",
    )


class _Study:
    """Studies one recipe on one slice.

    Attributes:
      programs: the digest of each that was compiled.
    """

    def __init__(self, subject: Subject, target: Slice, compiler: Compiler) -> None:
        recipe, counts = subject.recipe, subject.counts
        self._recipe, self._counts, self._target, self._compiler = recipe, counts, target, compiler
        self.programs: list[str] = []
        self._per_epoch = math.ceil(counts.train / recipe.batch_size)
        self._phases = [phase for phase in recipe.phases if not phase.solves]
        self._names = [f"phase {phase.name}" for phase in self._phases] + ["evaluation"]
        self._lowering = Lowering(
            recipe,
            num_classes=counts.classes,
            chips=target.chips,
            chips_of_host=target.chips_of_host,
            resident=subject.kept,
        )

    def steps(self) -> Iterator[Step]:
        """Compiles what the recipe consists of: a training step for every phase, and evaluation.

        Yields each as soon as it and those before it are done.
        """
        batch = self._recipe.batch_size // self._target.chips
        waiting: collections.deque[tuple[Step, concurrent.futures.Future[Compiled]]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(min(_PARALLEL_COMPILES, os.cpu_count() or 1)) as pool:
            for index, name in enumerate(self._names):
                evaluation = index == len(self._phases)
                program = self._lowering.forward(batch=batch) if evaluation else self._train(index, batch)
                self.programs.append(program.digest)
                waiting.append((_uncompiled(name, program), pool.submit(self._compile, name, program)))
                while waiting and waiting[0][1].done():
                    yield _compiled(*waiting.popleft())
            while waiting:
                yield _compiled(*waiting.popleft())

    def work(self) -> Iterator[Work]:
        """Yields how often each step is done; the last step is evaluation."""
        evaluation = len(self._phases)
        passes = math.ceil(self._counts.validation / self._recipe.batch_size)
        index = -1  # among the phases that are compiled
        for phase in self._recipe.phases:
            name, count = f"phase {phase.name}", phase.steps(steps_per_epoch=self._per_epoch)
            if phase.cached_features:
                all_images = self._per_epoch + passes
                yield Work(name=f"{name}: features", step=evaluation, count=all_images, needs_input=True)
            if phase.solves:
                continue
            index += 1
            yield Work(name=name, step=index, count=count, needs_input=not phase.cached_features)
            if passes and not phase.cached_features:
                repeated = passes * math.ceil(count / self._per_epoch)
                yield Work(name=f"{name}: validation", step=evaluation, count=repeated, needs_input=True)

    def channel_fill(self) -> float:
        return self._lowering.channel_fill(self._target.generation.matrix_unit)

    def search(self, steps: Sequence[Step], *, compiles: int) -> Searched | None:
        """Looks for the largest batch a chip of the phase that takes the most memory."""
        if not self._phases:
            return None
        phases = [i for i, phase in enumerate(self._phases) if not phase.cached_features]
        phases = phases or list(range(len(self._phases)))
        index = max(phases, key=lambda i: steps[i].compiled.needed)
        first = steps[index].compiled
        if not first.fits and not first.out_of_memory:
            return None

        tried = {first.batch: steps[index]}

        def attempt(batch: int) -> Attempt:
            program = self._train(index, batch)
            self.programs.append(program.digest)
            compiled = self._compile(f"{steps[index].name}, {batch} images", program)
            tried[batch] = dataclasses.replace(_uncompiled(steps[index].name, program), compiled=compiled)
            return _attempt(compiled)

        images = math.ceil(self._counts.train / self._target.chips)
        found = largest_batch(
            attempt,
            _attempt(first),
            limit=first.limit or self._target.generation.memory_limit,
            compiles=compiles,
            # Variables, and their gradients, which all chips sum.
            fixed=first.arguments - steps[index].input_bytes + sum(one.bytes for one in first.collectives),
            most=max(images, first.batch),
        )
        return Searched(
            name=steps[index].name, largest=tried.get(found.largest), too_large=found.too_large, images=images
        )

    def _train(self, index: int, batch: int) -> Program:
        phase = self._phases[index]
        return self._lowering.train_step(phase, batch=batch, steps_per_epoch=self._per_epoch)

    def _compile(self, name: str, program: Program) -> Compiled:
        logging.info("compiling %s for %s", name, self._target.generation.name)
        start = time.monotonic()
        compiled = self._compiler.compile(program.hlo, text_digest=program.digest, batch=program.batch)
        outcome = "fits" if compiled.fits else "does not fit" if compiled.out_of_memory else "does not compile"
        logging.info("compiled %s in %.0f s: %s", name, time.monotonic() - start, outcome)
        return compiled


def _uncompiled(name: str, program: Program) -> Step:
    nothing = Compiled(batch=program.batch)
    return Step(name=name, compiled=nothing, product_flops=program.flops, input_bytes=program.input_bytes)


def _compiled(step: Step, result: concurrent.futures.Future[Compiled]) -> Step:
    return dataclasses.replace(step, compiled=result.result())


def _attempt(compiled: Compiled) -> Attempt:
    return Attempt(batch=compiled.batch, needed=compiled.needed, fits=compiled.fits)
