"""Measures `trainer.predict`: the time to the first answer, and its rate beside that of the model alone.

    python -m benchmarks.predict --photos=FOLDER [--backbone=efficientnet_lite0 --side=224] [--images=10000]

The model has random weights, which take as long as others. In turn, each in a process of its own: the LiteRT model
alone, on made-up images, by batches of 32 on all processors and as the command asks it, by batches of 8 on a processor
each; the command on one photo; the command on so many photos (those of the folder, again and again), from its start to
its end.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from pipeline.command import CommandError, UsageError, run_command

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos.")
_BACKBONE = flags.DEFINE_string("backbone", "efficientnet_lite0", "Backbone of the model.")
_SIDE = flags.DEFINE_integer("side", 224, "Pixels of a side that the model sees.")
_IMAGES = flags.DEFINE_integer("images", 10_000, "Photos to classify.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.")
_ALONE = flags.DEFINE_string("alone", "", "Internal: the export whose model this process measures alone.")
_ABREAST = flags.DEFINE_bool("abreast", False, "Internal: measure it as the command asks it.")
_BATCH, _ABREAST_BATCH, _SECONDS, _CLASSES = 32, 8, 10.0, 5


def _export(folder: str) -> str:
    from trainer.models import backbone_info
    from trainer.models.classifier import build_classifier
    from trainer.serving.export import export_classifier

    size = {"height": _SIDE.value, "width": _SIDE.value}
    classifier = build_classifier(backbone=_BACKBONE.value, weights="none", num_classes=_CLASSES, seed=0, **size)
    export = str(pathlib.Path(folder, "export"))
    labels = [f"label {number}" for number in range(_CLASSES)]
    preprocess = backbone_info(_BACKBONE.value).preprocess
    export_classifier(classifier, labels=labels, preprocess=preprocess, directory=export, **size)
    return export


def _alone(model: str, *, abreast: int, batch: int) -> float:
    """Returns images/s of the model alone, asked by so many threads."""
    from trainer.serving.litert import open_abreast, open_litert

    ask = open_litert(model) if abreast == 1 else open_abreast(model, abreast)
    shape = (batch, _SIDE.value, _SIDE.value, 3)
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)

    def asked(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            ask(images)
            count += batch
        return count

    with concurrent.futures.ThreadPoolExecutor(abreast) as threads:
        list(threads.map(asked, [time.perf_counter() + 1] * abreast))  # what is prepared on the first call
        start = time.perf_counter()
        counts = list(threads.map(asked, [start + _SECONDS] * abreast))
    return sum(counts) / (time.perf_counter() - start)


def _alone_elsewhere(export: str, *flags_given: str) -> float:
    command = [sys.executable, "-m", "benchmarks.predict", f"--alone={export}", f"--side={_SIDE.value}", *flags_given]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _command(export: str, names: list[str]) -> float:
    """Returns the seconds that the command takes for so many photos."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trainer.predict", f"--model={export}", "-"],
        input="\n".join(names), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or done.stdout.count("\n") != len(names) + 1:
        raise CommandError(done.stderr[-2000:])
    return time.perf_counter() - start


def main(arguments: list[str]) -> None:
    del arguments
    if _ALONE.value:
        model = str(pathlib.Path(_ALONE.value, "model.tflite"))
        abreast = len(os.sched_getaffinity(0)) if _ABREAST.value else 1
        print(_alone(model, abreast=abreast, batch=_ABREAST_BATCH if _ABREAST.value else _BATCH))
        return
    if not _PHOTOS.value:
        raise UsageError("give --photos=FOLDER")
    photos = sorted(str(path) for path in pathlib.Path(_PHOTOS.value).rglob("*.jpg"))
    many = list(itertools.islice(itertools.cycle(photos), _IMAGES.value))
    alone, abreast, first, rates = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        export = _export(folder)
        for number in range(_ROUNDS.value):
            alone.append(_alone_elsewhere(export))
            abreast.append(_alone_elsewhere(export, "--abreast"))
            first.append(_command(export, photos[number : number + 1]))
            rates.append(_IMAGES.value / _command(export, many))
            print(
                f"the model alone {alone[-1]:.0f} images/s, abreast {abreast[-1]:.0f}, the command {rates[-1]:.0f} "
                f"({rates[-1] / alone[-1]:.2f} and {rates[-1] / abreast[-1]:.2f} of them), the first answer after "
                f"{first[-1]:.2f} s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    ratios, abreast_ratios = (
        statistics.median(rate / one for rate, one in zip(rates, ones, strict=True)) for ones in (alone, abreast)
    )
    print(
        f"medians: {statistics.median(alone):.0f} and {statistics.median(abreast):.0f} images/s, "
        f"{statistics.median(rates):.0f}, {ratios:.2f} and {abreast_ratios:.2f}, {statistics.median(first):.2f} s"
    )


if __name__ == "__main__":
    run_command(main)
