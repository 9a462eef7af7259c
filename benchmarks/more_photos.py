"""Measures whether what `trainer.check` tells of more photos comes true.

    python -m benchmarks.more_photos --data=DATA --data=DATA

For every dataset (images of 64 pixels at most are seen at 64) the frozen EfficientNet-Lite0's features are computed
once. Half of its images, drawn at random, are what a person has: the learning curve is measured on them, and told is
what as many more would bring. Then heads are cross-validated on all images: that is what they bring. Ten draws; what
comes of one is mostly chance, so intervals are counted that hold the mean of what came of all.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from benchmarks.frozen import read
from pipeline.command import UsageError, run_command
from pipeline.linear.probe import deal_folds, out_of_fold
from pipeline.linear.regression import cross_validate
from trainer.check import learning_curve

_DATA = flags.DEFINE_multi_string("data", [], "Dataset with train, validation and test (repeatable).")
_DRAWS = flags.DEFINE_integer("draws", 10, "How often a half is drawn.")


def _error(features: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> float:
    """Returns the error of heads on the images of the folds that they have not seen."""
    folds = deal_folds(labels, np.arange(len(labels)), seed=seed)
    answers = out_of_fold(features, labels, folds, num_classes=int(labels.max()) + 1, strength=strength).argmax(axis=1)
    return float(np.mean(answers != labels))


def main(arguments: list[str]) -> None:
    del arguments
    if not _DATA.value:
        raise UsageError("--data is missing (--help lists the flags)")
    for root in _DATA.value:
        features, labels = (np.concatenate(columns) for columns in zip(*read(root).values(), strict=True))
        classes = int(labels.max()) + 1
        told, came, intervals = [], [], []
        for draw in range(_DRAWS.value):
            half = np.random.default_rng(draw).permutation(len(labels))[: len(labels) // 2]
            x, y = features[half], labels[half]
            strength = cross_validate(x, y, class_weights=np.ones(classes, np.float32), seed=draw).strength
            folds = deal_folds(y, np.arange(len(y)), seed=draw)
            curve = learning_curve.measure(x, y, folds, num_classes=classes, strength=strength, seed=draw)
            gain, low, high = curve.gain(round(curve.counts[-1]))
            whole = _error(features, labels, strength, draw)
            intervals.append((low, high))
            told.append(gain)
            came.append(curve.errors[-1] - whole)
            print(
                f"  told {100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), came {100 * came[-1]:+.1f}",
                flush=True,
            )
        inside = sum(low <= np.mean(came) <= high for low, high in intervals)
        print(
            f"{root}: {len(labels)} images, told {100 * np.mean(told):+.1f} points, came {100 * np.mean(came):+.1f} "
            f"(deviation {100 * np.std(came, ddof=1):.1f}), in {inside} of {len(told)} intervals",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
