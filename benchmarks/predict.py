"""Measures `trainer.predict`: the time to the first answer, and its rate beside that of the model alone.

    python -m benchmarks.predict --photos=FOLDER [--backbone=efficientnet_lite0 --side=224] [--images=10000]

The model has random weights, which take as long as others. In turn, each in a process of its own: the LiteRT model
alone, on batches of 32 made-up images; the command on one photo; the command on so many photos (those of the folder,
again and again), from its start to its end.
"""

from __future__ import annotations

import itertools
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
_BATCH, _SECONDS, _CLASSES = 32, 10.0, 5


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


def _alone(export: str) -> float:
    """Returns images/s of the model alone."""
    from trainer.serving.litert import open_litert

    ask = open_litert(str(pathlib.Path(export, "model.tflite")))
    shape = (_BATCH, _SIDE.value, _SIDE.value, 3)
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    ask(images)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        ask(images)
        count += _BATCH
    return count / (time.perf_counter() - start)


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
        print(_alone(_ALONE.value))
        return
    if not _PHOTOS.value:
        raise UsageError("give --photos=FOLDER")
    photos = sorted(str(path) for path in pathlib.Path(_PHOTOS.value).rglob("*.jpg"))
    many = list(itertools.islice(itertools.cycle(photos), _IMAGES.value))
    alone, first, rates = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        export = _export(folder)
        for number in range(_ROUNDS.value):
            itself = [sys.executable, "-m", "benchmarks.predict", f"--alone={export}", f"--side={_SIDE.value}"]
            alone.append(float(subprocess.run(itself, capture_output=True, text=True, check=True).stdout))
            first.append(_command(export, photos[number : number + 1]))
            rates.append(_IMAGES.value / _command(export, many))
            print(
                f"the model alone {alone[-1]:.0f} images/s, the command {rates[-1]:.0f} "
                f"({rates[-1] / alone[-1]:.2f} of it), the first answer after {first[-1]:.2f} s",
                flush=True,
            )
    ratios = [rate / one for rate, one in zip(rates, alone, strict=True)]
    print(
        f"medians: {statistics.median(alone):.0f} images/s, {statistics.median(rates):.0f}, "
        f"{statistics.median(ratios):.2f}, {statistics.median(first):.2f} s"
    )


if __name__ == "__main__":
    run_command(main)
