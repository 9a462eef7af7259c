"""Measures what an image costs with each backbone: LiteRT, float32, one image at a time on one core, pixels to answer.

    nice -n 10 python -m benchmarks.backbones

Processor time, which other work on the machine lengthens little. With random weights, of which it does not depend, at
the size of the ImageNet weights and with five labels. Prints the first cells of the table in benchmarks/RESULTS.md from
which the documentation takes them.
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
from absl import flags

from pipeline.command import run_command
from trainer.models.backbones import BACKBONES

_NAMES = flags.DEFINE_list("backbones", list(BACKBONES), "Which to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Images each is asked about.", lower_bound=3)
_LABELS = 5


def litert(name: str) -> bytes:
    """Returns the LiteRT file of a classifier with this backbone, its weights random."""
    from trainer.models.classifier import build_classifier
    from trainer.serving.export import inference_model, litert_converter

    info = BACKBONES[name]
    size = {"height": info.image_size, "width": info.image_size}
    classifier = build_classifier(backbone=name, weights="none", num_classes=_LABELS, seed=0, **size)
    with litert_converter(inference_model(classifier, preprocess=info.preprocess, **size)) as converter:
        content: bytes = converter.convert()
    return content


def main(arguments: list[str]) -> None:
    """Prints the median of each in milliseconds and, in brackets, the range."""
    del arguments
    import keras

    from trainer.serving.litert import open_litert

    for name in _NAMES.value:
        content = litert(name)
        keras.backend.clear_session()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # LiteRT takes a thread a core
        ask, side = open_litert(content), BACKBONES[name].image_size
        image = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
        ask(image)  # warms up
        seconds = []
        for _ in range(_ROUNDS.value):
            started = time.process_time()
            ask(image)
            seconds.append(time.process_time() - started)
        middle, least, most = (1000 * of(seconds) for of in (statistics.median, min, max))
        print(f"| `{name}` | {middle:.0f} ({least:.0f} to {most:.0f}) |", flush=True)


if __name__ == "__main__":
    run_command(main)
