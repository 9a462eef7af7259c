r"""Makes the answers that come with the package: takes hours, and goes on where it was stopped.

    python -m trainer.preflight.answers
    python -m trainer.preflight.answers --recipe=photos --topology=v5e:2x4

Run it after a change to what is trained or to how it is examined. Where the programs are still the same, nothing is
compiled anew. Answers that no longer hold are removed, and when all were asked for, what the compiler said of programs
that are no more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection

from absl import flags

from pipeline.command import ExitCode, run_command
from trainer.devices.tpus import parse_topology
from trainer.preflight.asking import ask
from trainer.preflight.cache import SHIPPED, Cache
from trainer.preflight.compiling import analysis
from trainer.preflight.question import COMMON, Question

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("recipe", [recipe for recipe, _ in COMMON], "Recipes to ask about (repeatable).")
flags.DEFINE_multi_string("topology", [topology for _, topology in COMMON], "Slices to ask about (repeatable).")
flags.DEFINE_string("jax_python", sys.executable, "Python interpreter that has jax and libtpu.")


def main(arguments: list[str]) -> int:
    del arguments
    wanted = [pair for pair in COMMON if pair[0] in FLAGS.recipe and pair[1] in FLAGS.topology]
    for recipe, topology in wanted:
        start = time.monotonic()
        question = Question(recipe=recipe, target=parse_topology(topology))
        *_, report = ask(question, jax_python=FLAGS.jax_python, cache=Cache(SHIPPED))
        verdict = "fits" if report.fits else "does not fit, or does not compile"
        print(f"{recipe} on {topology}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    _remove_old_readings()
    programs = _remove_old_answers(wanted)
    if wanted == list(COMMON):
        for file in SHIPPED.glob("*.json"):
            key = json.loads(file.read_text())["key"]
            if "program" in key and key["program"] not in programs:
                file.unlink()
    return ExitCode.DONE


def _remove_old_readings() -> None:
    """Removes what older code has read out of compiled programs."""
    today = analysis()
    for file in SHIPPED.glob("*.json"):
        if json.loads(file.read_text())["key"].get("analysis", today) != today:
            file.unlink()


def _remove_old_answers(wanted: Collection[tuple[str, str]]) -> list[str]:
    """Removes answers to the wanted questions that are not today's; returns the digests of the others' programs."""
    keys = [Question(recipe=recipe, target=parse_topology(topology)).key() for recipe, topology in wanted]
    programs: list[str] = []
    for file in SHIPPED.glob("*.json"):
        content = json.loads(file.read_text())
        key = content["key"]
        if (key.get("recipe"), key["topology"]) in wanted and key not in keys:
            file.unlink()
        elif "recipe" in key:
            programs += content["value"]["programs"]
    return programs


if __name__ == "__main__":
    run_command(main)
