"""Measures how well wrong labels are found: some labels of good datasets are changed, and looked for.

    python -m benchmarks.label_issues --data=DATA --data=DATA --output=figures.json

For every dataset (images of 64 pixels at most are seen at 64) the frozen EfficientNet-Lite0's features are computed
once, of all its splits. Then labels are changed: of 2, 5, 10 or 20 % of the images, each to any other label, or of 20 %
of one label to one other ("pair"); three seeds each. Precision: how many of the labels listed were changed. Recall: how
many of the changed ones are listed. Labels that were wrong from the start count as false alarms. Compared are ways to
list them, on the same probabilities, with cleanlab's own where it is installed.

Then a head learns from the training split: from all of it, without what is listed there, and without what was changed;
its accuracy is that on the test split, by the right labels.
"""

from __future__ import annotations

import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks.frozen import read
from pipeline.command import UsageError, run_command
from pipeline.linear.probe import deal_folds, out_of_fold
from pipeline.linear.regression import cross_validate, fit_head
from trainer.report.label_issues import find_label_issues

_DATA = flags.DEFINE_multi_string("data", [], "Dataset with train, validation and test (repeatable).")
_OUTPUT = flags.DEFINE_string("output", "label_issues.json", "Where the figures go.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How often labels are changed anew.")

NOISE = (0.02, 0.05, 0.1, 0.2)
PAIR = 0.2
KEYS = ("precision", "recall")


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


def measure(
    features: np.ndarray, truth: np.ndarray, trained: np.ndarray, noise: float | str, seed: int
) -> list[dict[str, Any]]:
    """Measures each way's precision and recall for one change of labels, and what leaving out brings.

    Args:
      features: float32 [N, F].
      truth: int [N].
      trained: bool [N], of the training split; the test split is the rest.
      noise: one of `NOISE`, or "pair".
      seed: of the change.
    """
    labels = changed(truth, noise, np.random.default_rng(seed))
    classes = int(truth.max()) + 1
    folds = deal_folds(labels, np.arange(len(labels)), seed=seed)
    weights = np.ones(classes, np.float32)
    strength = cross_validate(features, labels, class_weights=weights, seed=seed).strength
    answers = np.exp(out_of_fold(features, labels, folds, num_classes=classes, strength=strength))
    wrong = labels != truth

    def accuracy(left_out: np.ndarray) -> float:
        known = trained & ~left_out
        head = fit_head(features[known], labels[known], class_weights=weights, strength=strength)
        return float((head.log_probabilities(features[~trained]).argmax(axis=1) == truth[~trained]).mean())

    rows = []
    for way, positions in listings(labels, answers).items():
        listed = np.isin(np.arange(len(labels)), positions)
        rows.append(
            {
                "noise": noise,
                "seed": seed,
                "way": way,
                "changed": int(wrong.sum()),
                "listed": int(listed.sum()),
                "precision": float(wrong[listed].mean()) if listed.any() else None,
                "recall": float(listed[wrong].mean()),
                "accuracy": {
                    "all": accuracy(np.zeros_like(wrong)),
                    "without the listed": accuracy(listed),
                    "without the changed": accuracy(wrong),
                },
            }
        )
    return rows


def _shown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the figures of all seeds, in a line."""
    precision, recall = (" ".join(f"{row[key]:.2f}" for row in rows if row[key] is not None) for key in KEYS)
    accuracies = " → ".join(f"{np.mean([row['accuracy'][of] for row in rows]):.4f}" for of in rows[0]["accuracy"])
    return f"precision {precision}, recall {recall}, accuracy {accuracies}"


def main(arguments: list[str]) -> None:
    del arguments
    if not _DATA.value:
        raise UsageError("--data is missing (--help lists the flags)")
    rows = []
    for root in _DATA.value:
        splits = {split: values for split, values in read(root).items() if split != "validation"}
        features, truth = (np.concatenate(columns) for columns in zip(*splits.values(), strict=True))
        trained = np.arange(len(truth)) < len(splits["train"][1])
        for noise in (*NOISE, "pair"):
            found = [row for seed in range(_SEEDS.value) for row in measure(features, truth, trained, noise, seed)]
            rows += [{"data": root} | row for row in found]
            for way in dict.fromkeys(row["way"] for row in found):
                print(f"{root} {noise} {way}: {_shown([row for row in found if row['way'] == way])}", flush=True)
    content = {"machine": platform.processor() or platform.machine(), "rows": rows}
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
