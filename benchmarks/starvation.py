"""Measures which is slower for a recipe on this machine, the input or the training step.

    python -m benchmarks.starvation --data=DATA --recipe=photos [--set=…] [--cache=…] [--ways='input only']

Images/s of the recipe's last phase and this host's processor time an image, three ways, taking turns `--rounds` times
in one process:
 * input only: `pipeline.dataset.train_dataset`, augmented as the recipe says, nothing trained; also the bytes an image
   that it hands to the device;
 * step only: the compiled step on one batch that lies ready;
 * together: the step fed by the input.
Where "together" is far below "step only", the device starves (the trainer warns of it by itself).
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from pipeline.command import run_command
from pipeline.format.manifest import open_dataset

_DATA = flags.DEFINE_string("data", None, "Dataset to train on.", required=True)
_RECIPE = flags.DEFINE_string("recipe", "photos", "Recipe to measure.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the recipe, as of the trainer.")
_CACHE = flags.DEFINE_string("cache", "auto", "Where images lie between epochs, as of the trainer.")
_WAYS = flags.DEFINE_list("ways", ["input only", "step only", "together"], "What to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of one measurement.", lower_bound=0.1)
_OUTPUT = flags.DEFINE_string("output", "starvation.json", "Where the figures go.")

STEPS = 4  # a host call


def rates() -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Measures the images/s of every round, for each way, and what an image costs the host."""
    import numpy as np
    import tensorflow as tf

    from pipeline.batching import HostSlice
    from trainer.devices.strategy import make_strategy
    from trainer.recipes.load import resolve
    from trainer.request import Request
    from trainer.train.feed import distribute
    from trainer.train.model import build_from_recipe, set_precision
    from trainer.train.plan import Plan
    from trainer.train.residence import place
    from trainer.train.step import TrainStep

    data = open_dataset(_DATA.value)
    request = Request(
        data=_DATA.value, recipe=_RECIPE.value, backbone=None, weights="none", settings=tuple(_SET.value), seed=0
    )
    recipe = resolve(request, data)
    phase = recipe.phases[-1]
    strategy = make_strategy()
    set_precision(recipe, strategy)
    ones = np.ones(data.manifest.num_classes, np.float32)
    cache, resident = place(_CACHE.value, recipe, data, strategy)
    with tempfile.TemporaryDirectory() as folder, strategy.scope():
        plan = Plan(
            recipe=recipe, data=data, seed=0, run=folder, class_weights=ones, stop_requested=lambda: False,
            cache=cache, resident=resident,
        )  # fmt: skip
        step = TrainStep(
            classifier=build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0),
            recipe=recipe,
            phase=phase,
            rates=phase.learning_rates(steps_per_epoch=plan.steps_per_epoch),
            class_weights=ones,
            strategy=strategy,
            seed=0,
            resident=resident,
        )

    def epochs(host: HostSlice) -> tf.data.Dataset:
        return plan.train_data(epoch=0, skip_batches=0, augment=phase.augment)(host).repeat()

    ready = next(iter(epochs(HostSlice())))
    alone = iter(epochs(HostSlice()))
    batches: dict[str, Iterator[Any]] = {
        "step only": iter(distribute(strategy, lambda host: tf.data.Dataset.from_tensors(ready).repeat())),
        "together": iter(distribute(strategy, epochs)),
    }

    def advance(name: str) -> None:
        if name == "input only":
            for _ in range(STEPS):
                next(alone)
        else:
            step(batches[name], first_step=0, steps=STEPS)

    measured: dict[str, list[float]] = {name: [] for name in _WAYS.value}
    bytes_fed = sum(tensor.numpy().nbytes for tensor in ready.values()) / recipe.batch_size
    core_ms: dict[str, list[float]] = {name: [] for name in measured}
    for name in measured:
        advance(name)  # compiles, fills buffers
    for _ in range(_ROUNDS.value):
        for name, found in measured.items():
            advance(name)
            start, worked, images = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < _SECONDS.value:
                advance(name)
                images += STEPS * recipe.batch_size
            found.append(images / (time.perf_counter() - start))
            core_ms[name].append(1e3 * (time.process_time() - worked) / images)
            print(f"{name:12s} {found[-1]:8.1f} images/s, {core_ms[name][-1]:.4f} core-ms", flush=True)
    return measured, {"bytes": bytes_fed, "core_ms": core_ms}


def main(arguments: list[str]) -> None:
    del arguments
    measured, cost = rates()
    print(f"\n{cost['bytes']:.0f} bytes an image; medians of core-ms: ", end="")
    print(", ".join(f"{name} {statistics.median(found):.4f}" for name, found in cost["core_ms"].items()))
    medians = {name: statistics.median(found) for name, found in measured.items()}
    print(f"medians of {_ROUNDS.value}: " + ", ".join(f"{name} {rate:.1f}" for name, rate in medians.items()))
    if {"input only", "step only"} <= medians.keys():
        print(f"the input could feed {medians['input only'] / medians['step only']:.2f} × what the step takes")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    figures = {
        "command": sys.argv,
        "machine": machine,
        "images_per_second": measured,
        "medians": medians,
        "input": cost,
    }
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
