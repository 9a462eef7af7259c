r"""Measures what balanced class weights do where one label has twenty times the images of another.

    python -m benchmarks.imbalance --photos=FLOWERS --recipe=photos --set=phases.1.duration=0ep

From a folder of one folder a class, takes two classes: 100 training images of the common one, 5 of the rare one, 15 of
each for validation and 40 of each for testing, other ones for every seed. Trains with class_weights none and balanced.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import statistics
import tempfile

import numpy as np
from absl import flags

from benchmarks.finetune_vs_probe import run_module
from pipeline.command import UsageError, run_command

FLAGS = flags.FLAGS
flags.DEFINE_string("common", "dandelion", "The class of many images.")
flags.DEFINE_string("rare", "daisy", "The class of few.")
COUNTS = {"train": (100, 5), "validation": (15, 15), "test": (40, 40)}


def draw(photos: pathlib.Path, folder: pathlib.Path, *, seed: int) -> None:
    """Copies images into `folder/<split>/<class>/`, other ones for every seed."""
    for index, label in enumerate((FLAGS.common, FLAGS.rare)):
        files = sorted((photos / label).iterdir())
        order = np.random.default_rng([seed, index]).permutation(len(files)).tolist()
        for split, counts in COUNTS.items():
            target = folder / split / label
            target.mkdir(parents=True)
            for _ in range(counts[index]):
                shutil.copy(files[order.pop()], target)


def main(arguments: list[str]) -> None:
    del arguments
    if not FLAGS.photos:
        raise UsageError("give --photos=FOLDER")
    print(f"{FLAGS.common} {COUNTS['train'][0]} : {FLAGS.rare} {COUNTS['train'][1]}")
    table: dict[str, list[tuple[float, float, float]]] = {"none": [], "balanced": []}
    for seed in FLAGS.seeds:
        with tempfile.TemporaryDirectory() as work:
            folder, data = pathlib.Path(work, "photos"), f"{work}/data"
            draw(pathlib.Path(FLAGS.photos), folder, seed=int(seed))
            run_module("beam_jobs.build_tfrecords", f"--input={folder}", f"--output={data}")
            for weights, rows in table.items():
                settings = [f"--set={assignment}" for assignment in (f"class_weights={weights}", *FLAGS.set)]
                run = f"{work}/{weights}"
                run_module(
                    "trainer.main",
                    f"--data={data}",
                    f"--recipe={FLAGS.recipe}",
                    f"--workdir={run}",
                    f"--seed={seed}",
                    *settings,
                )
                test = json.loads(pathlib.Path(run, "result.json").read_text(encoding="utf-8"))["splits"]["test"]
                recalls = {row["label"]: row["accuracy"] for row in test["per_class"]}
                rows.append((test["balanced_accuracy"], recalls[FLAGS.rare], recalls[FLAGS.common]))
    for weights, rows in table.items():
        columns = [f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in zip(*rows, strict=True)]
        print(f"class_weights={weights}: balanced accuracy, recall of the rare and of the common: {', '.join(columns)}")


if __name__ == "__main__":
    run_command(main)
