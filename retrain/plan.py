"""Says what a pass would do, without doing it, and what the last one decided by which limits."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator

from pipeline.command import CommandError
from pipeline.format import storage
from pipeline.format.lock import NO_LOCK
from pipeline.format.manifest import TEST, DatasetVersion, open_dataset
from pipeline.noninferiority import images_needed
from pipeline.processes import command_line
from retrain import registry, steps
from retrain.challenge import EXPORT_DIR
from retrain.config import RetrainConfig
from retrain.data.step import CHECK
from retrain.identity import digest
from retrain.one_pass import Wanted, inputs_of, next_challenge, unchanged

_WHAT = {"data": "the images", "training": "how a model is trained", "gates": "the limits of the gates"}


def planned(config: RetrainConfig, commands: steps.Commands, wanted: Wanted) -> Iterator[str]:
    """Tells step by step what a pass would do with the dataset as it is now; writes nothing."""
    champion = registry.champion(config.models)
    yield f"champion: {f'model {champion.number}, {champion.path}' if champion else 'none yet'}"
    if wanted.takes("build"):
        command = command_line(commands.build, steps.build_flags(config))[1:]
        yield f"build: would run python {shlex.join(command)}"
        yield "  it ends soon where nothing has changed; with --dry_run it says what it would find"
    try:
        data = open_dataset(config.data)
    except CommandError:
        yield f"  {config.data} holds no dataset yet; all that follows depends on it"
        return
    images = sum(map(data.manifest.num_examples, data.manifest.splits))
    yield f"dataset: {data.path}, {images:,} images, content {inputs_of(config, data)['data']}"
    yield from _changes(config, data, champion, wanted)
    yield from _training(config, commands, data, champion, wanted)
    yield from _deciding(config, data, champion, wanted)


def _changes(
    config: RetrainConfig, data: DatasetVersion, champion: registry.Model | None, wanted: Wanted
) -> Iterator[str]:
    passes = registry.passes(config.models)
    inputs = inputs_of(config, data)
    if not passes:
        yield "  no pass has decided about anything yet"
        return
    last = passes[-1]
    if unchanged(digest(inputs), last, champion):
        yield f"  decided about {last['time']}: {last['decision']}; {_forced_or_over(wanted)}"
        return
    before = last.get("inputs", {})
    changed = [_WHAT[name] for name in inputs if before and before.get(name) != inputs[name]]
    since = f"since the last pass, {last['time']}, "
    yield f"  {since}{' and '.join(changed)} changed" if changed else f"  {since}the champion was removed"


def _forced_or_over(wanted: Wanted) -> str:
    if wanted.forced:
        return f"--force={wanted.forced} takes that step and those after it anew"
    return "unless the build finds something new, the pass ends here, with exit code 99"


def _training(
    config: RetrainConfig,
    commands: steps.Commands,
    data: DatasetVersion,
    champion: registry.Model | None,
    wanted: Wanted,
) -> Iterator[str]:
    challenge = next_challenge(steps.Steps(config=config, commands=commands, lock=NO_LOCK), data, champion)
    if wanted.takes("check"):
        against = f"that of model {champion.number}, {champion.dataset() or 'not noted'}" if champion else "none"
        done = storage.exists(storage.join(challenge.pages, CHECK)) and not wanted.forces("check")
        yield f"check: the dataset is compared with {against}{'; looked at already' if done else ''}"
    if wanted.takes("train"):
        start = f"model {challenge.start.number}, {config.init_share:.0%} of it" if challenge.start else "cold"
        for run in challenge.runs:
            state = "would be trained"
            if storage.exists(run) and not wanted.forces("train"):
                state = "is trained already" if storage.exists(storage.join(run, EXPORT_DIR)) else "would go on"
            yield f"train: {run} {state}, recipe {config.recipe}, starting {start}"


def _deciding(
    config: RetrainConfig, data: DatasetVersion, champion: registry.Model | None, wanted: Wanted
) -> Iterator[str]:
    if not wanted.takes("decide"):
        return
    images = data.manifest.num_examples(TEST) if TEST in data.manifest.splits else 0
    needed = images_needed(margin=config.gate.margin, alpha=config.gate.alpha)
    yield (
        f"decide: on {images:,} test images; that nobody is worse by {config.gate.margin:g} takes {needed:,} at least"
        + ("" if champion else "; without a champion the floor alone decides")
    )


def explained(config: RetrainConfig) -> Iterator[str]:
    """Tells what the last pass decided, why, and the limits that the next one goes by."""
    passes = registry.passes(config.models)
    if passes:
        last = passes[-1]
        yield f"last decision: {last['decision']}, {last['time']}, on {last['dataset']}"
        yield from (f"  {reason}" for reason in last["reasons"])
        yield from (f"  data, {name}: {outcome}" for name, outcome in last.get("data", {}).items() if outcome != "ok")
    for name in ("gate", "data_gate"):
        values = dataclasses.asdict(getattr(config, name))
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items())
