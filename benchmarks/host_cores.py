"""Measures how many host cores the recipes need to keep a TPU's chips fed.

    python -m benchmarks.host_cores [--recipe=photos] [--cores=1,2] [--slices=v5e:2x4,v6e:2x4] --output=host_cores.json

For every recipe as a TPU runs it: the processor time that an image takes in the input pipeline (trainer.preflight's
measurement, on made-up images of the size of the recipe's own), with so many processors of this machine, in processes
of their own that take turns; the images/s of the slice at the roofline, from the answers of trainer.preflight that come
with the package; and what both come to in cores, beside those that the slice's hosts have. A vCPU of theirs is counted
as a core of this machine, which nobody has measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from absl import flags

from pipeline.command import CommandError, run_command
from trainer.devices.tpus import Slice, parse_topology

_RECIPES = flags.DEFINE_multi_string(
    "recipe",
    ["photos", "quick", "cifar10_efficientnet", "cifar10_cnn", "oxford_pets_resnet", "big_cats_vgg16", "scraped_vgg16"],
    "Recipes to measure (repeatable).",
)
_CORES = flags.DEFINE_list("cores", ["1", "2"], "Numbers of processors to measure with.")
_SLICES = flags.DEFINE_list("slices", ["v5e:2x4", "v6e:2x4"], "Slices to feed.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures.")
_RUN = flags.DEFINE_string("run", "", "Internal: the recipe that this process measures.")


def _measure(name: str, cores: int) -> dict[str, Any]:
    """Measures one recipe in this process, which has imported no TensorFlow yet."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from trainer.preflight.examine import as_it_runs
    from trainer.preflight.question import Question

    subject = as_it_runs(Question(recipe=name, target=parse_topology(_SLICES.value[0])))
    return dataclasses.asdict(subject.feed(None))


def _of_child(name: str, cores: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.host_cores", f"--run={name}", f"--cores={cores}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _rates(name: str, target: Slice) -> dict[str, float] | None:
    """Returns the slice's images/s in the phases that are fed, at the roofline; None where no answer was shipped."""
    from trainer.preflight.cache import SHIPPED, Cache
    from trainer.preflight.findings import Report
    from trainer.preflight.question import Question
    from trainer.preflight.roofline import bounds_of

    stored = Cache(None, shipped=SHIPPED).get(Question(recipe=name, target=target).key())
    if stored is None:
        return None
    report = Report.from_dict(stored)
    fed = {work.step for work in report.work if work.needs_input and report.steps[work.step].name != "evaluation"}
    return {
        step.name: step.compiled.batch * target.chips / bounds_of(step, target).seconds
        for number, step in enumerate(report.steps)
        if number in fed
    }


def main(arguments: list[str]) -> None:
    del arguments
    if _RUN.value:
        print(json.dumps(_measure(_RUN.value, int(_CORES.value[0]))))
        return
    runs: dict[str, list[float]] = {}
    for _ in range(_ROUNDS.value):
        for name in _RECIPES.value:
            for cores in map(int, _CORES.value):
                runs.setdefault(f"{name} {cores}", []).append(1e3 * _of_child(name, cores)["core_seconds"])
    figures: dict[str, Any] = {"core_ms": runs, "slices": {}}
    for name in _RECIPES.value:
        times = [runs[f"{name} {cores}"] for cores in _CORES.value]
        spread = ", ".join(
            f"{statistics.median(one):.2f} ms ({min(one):.2f} to {max(one):.2f}) on {cores}"
            for one, cores in zip(times, _CORES.value, strict=True)
        )
        print(f"{name}: {spread}", flush=True)
        for target in map(parse_topology, _SLICES.value):
            rates = _rates(name, target)
            if not rates:
                print(f"  {target.name}: no answer of trainer.preflight is shipped")
                continue
            phase, rate = max(rates.items(), key=lambda pair: pair[1])
            needed = rate * statistics.median(times[-1]) / 1e3
            figures["slices"][f"{name} {target.name}"] = {"rate": rate, "cores": needed}
            enough = "enough" if needed <= target.cores else "too few"
            print(
                f"  {target.name}: {rate:,.0f} images/s in {phase} take {needed:.0f} cores, of {target.cores}: {enough}"
            )
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
