"""Measures how well wrong labels are found: some labels of good datasets are changed, and looked for.

    python -m benchmarks.label_issues --data=DATA --data=DATA --output=figures.json

For every dataset (images of 64 pixels at most are seen at 64) the frozen EfficientNet-Lite0's features are computed
once, of all its splits. Then labels are changed: of 2, 5, 10 or 20 % of the images, each to any other label, or of 20 %
of one label to one other ("pair"); three seeds each. Precision: how many of the labels listed were changed. Recall: how
many of the changed ones are listed. Labels that were wrong from the start count as false alarms. Compared are ways to
list them, on the same probabilities, with cleanlab's own where it is installed.
"""

from __future__ import annotations

import json
import pathlib
import platform

import numpy as np
from absl import flags

from benchmarks.frozen import read
from pipeline.command import UsageError, run_command
from trainer.check.label_issues import find_label_issues
from trainer.check.probe import deal_folds, out_of_fold
from trainer.train.regression import cross_validate

_DATA = flags.DEFINE_multi_string("data", [], "Dataset with train, validation and test (repeatable).")
_OUTPUT = flags.DEFINE_string("output", "label_issues.json", "Where the figures go.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How often labels are changed anew.")

NOISE = (0.02, 0.05, 0.1, 0.2)
PAIR = 0.2


def changed(labels: np.ndarray, noise: float | str, random: np.random.Generator) -> np.ndarray:
    """Returns the labels, int [N], with some of them changed."""
    found, classes = labels.copy(), labels.max() + 1
    if noise == "pair":
        one, other = random.permutation(classes)[:2]
        of_label = np.flatnonzero(labels == one)
        found[random.permutation(of_label)[: round(PAIR * len(of_label))]] = other
        return found
    chosen = random.permutation(len(labels))[: round(float(noise) * len(labels))]
    found[chosen] = (labels[chosen] + random.integers(1, classes, size=len(chosen))) % classes
    return found


def listings(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Returns way → positions of the images that it lists."""
    own = probabilities[np.arange(len(labels)), labels]
    found = {
        "confident learning (ours)": find_label_issues(labels, probabilities).positions,
        "another label is likelier": np.flatnonzero(own < probabilities.max(axis=1)),
        "own label below 0.1": np.flatnonzero(own < 0.1),
    }
    try:
        from cleanlab.filter import find_label_issues as cleanlabs
    except ImportError:
        return found
    for way in ("confident_learning", "prune_by_noise_rate", "both"):
        found[f"cleanlab, {way}"] = np.flatnonzero(cleanlabs(labels, probabilities, filter_by=way, n_jobs=1))
    return found


def measure(features: np.ndarray, truth: np.ndarray, noise: float | str, seed: int) -> list[dict[str, object]]:
    """Measures each way's precision and recall for one change of labels."""
    labels = changed(truth, noise, np.random.default_rng(seed))
    classes = int(truth.max()) + 1
    folds = deal_folds(labels, np.arange(len(labels)), seed=seed)
    weights = np.ones(classes, np.float32)
    strength = cross_validate(features, labels, class_weights=weights, seed=seed).strength
    answers = np.exp(out_of_fold(features, labels, folds, num_classes=classes, strength=strength))
    wrong = labels != truth
    return [
        {
            "noise": noise,
            "seed": seed,
            "way": way,
            "changed": int(wrong.sum()),
            "listed": len(positions),
            "precision": float(wrong[positions].mean()) if len(positions) else None,
            "recall": float(wrong[positions].sum() / wrong.sum()),
            "worst_precision": float(wrong[positions[np.argsort(answers[positions, labels[positions]])]][
                : int(wrong.sum())
            ].mean()) if len(positions) else None,
        }
        for way, positions in listings(labels, answers).items()
    ]  # fmt: skip


def main(arguments: list[str]) -> None:
    del arguments
    if not _DATA.value:
        raise UsageError("--data is missing (--help lists the flags)")
    rows = []
    for root in _DATA.value:
        splits = read(root)
        features, truth = (np.concatenate(columns) for columns in zip(*splits.values(), strict=True))
        for noise in (*NOISE, "pair"):
            found = [row for seed in range(_SEEDS.value) for row in measure(features, truth, noise, seed)]
            rows += [{"data": root} | row for row in found]
            for way in dict.fromkeys(row["way"] for row in found):
                of_way = [row for row in found if row["way"] == way]
                shown = {
                    key: " ".join(f"{row[key]:.2f}" for row in of_way if row[key] is not None)
                    for key in ("precision", "recall")
                }
                print(f"{root} {noise} {way}: precision {shown['precision']}, recall {shown['recall']}", flush=True)
    content = {"machine": platform.processor() or platform.machine(), "rows": rows}
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
