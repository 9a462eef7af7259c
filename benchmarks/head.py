"""Measures heads that are solved for: which features, how strong a penalty, how long with which minimiser.

    python -m benchmarks.head --data=DATA --data=DATA --output=figures.json

For every dataset (images of 64 pixels at most are seen at 64) the frozen EfficientNet-Lite0's features are computed
once. Heads are fitted to the training split:
 * as the trainer does it, and on features that are standardised (mean 0, deviation 1 each): the strength that
   cross-validation takes, its loss, and accuracy and loss on test;
 * at every strength: the same on test, as it is and at the temperature that suits validation best;
 * as the trainer does it, with SciPy's L-BFGS-B in place of ours: seconds of cross-validation and fit.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
import time
from unittest import mock

import numpy as np
from absl import flags
from scipy import optimize

from benchmarks.frozen import Split, read
from pipeline.command import UsageError, run_command
from pipeline.linear import regression
from pipeline.linear.calibration import fit_temperature, with_temperature
from pipeline.linear.lbfgs import Objective

_DATA = flags.DEFINE_multi_string("data", [], "Dataset with train, validation and test (repeatable).")
_OUTPUT = flags.DEFINE_string("output", "head.json", "Where the figures go.")


def scipys(objective: Objective, start: np.ndarray) -> np.ndarray:
    """Minimises with SciPy, to the tolerances of ours."""
    options = {"maxiter": 200, "gtol": 1e-5, "ftol": 1e-9}
    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def standardised(splits: dict[str, Split]) -> dict[str, Split]:
    mean, deviation = (of(splits["train"][0], axis=0) for of in (np.mean, np.std))
    return {name: ((x - mean) / (deviation + 1e-3 * deviation.max()), y) for name, (x, y) in splits.items()}


def judged(head: regression.LinearHead, splits: dict[str, Split]) -> dict[str, float]:
    """Says what a head makes of the test split."""
    (x, truth), (x_validation, known) = splits["test"], splits["validation"]
    found = head.log_probabilities(x)
    temperature = fit_temperature(head.log_probabilities(x_validation), known)
    every = np.arange(len(truth))
    return {
        "accuracy": float((found.argmax(axis=1) == truth).mean()),
        "loss": float(-found[every, truth].mean()),
        "calibrated_loss": float(-with_temperature(found, temperature)[every, truth].mean()),
    }


def chosen(splits: dict[str, Split]) -> dict[str, float]:
    """Fits a head as the trainer does; returns what it is, and the seconds that it took."""
    x, y = splits["train"]
    weights = np.ones(y.max() + 1)
    started = time.monotonic()
    found = regression.cross_validate(x, y, class_weights=weights, seed=0)
    head = regression.fit_head(x, y, class_weights=weights, strength=found.strength)
    seconds = time.monotonic() - started
    unseen = -found.log_probabilities[np.arange(len(found.examples)), y[found.examples]].mean()
    return {"strength": found.strength, "unseen_loss": float(unseen), "seconds": seconds, **judged(head, splits)}


def measure(root: str) -> dict[str, object]:
    splits = read(root)
    x, y = splits["train"]
    weights = np.ones(y.max() + 1)
    ladder = {
        f"{strength:.3g}": judged(regression.fit_head(x, y, class_weights=weights, strength=strength), splits)
        for strength in regression.STRENGTHS
    }
    ours = [chosen(splits) for _ in range(3)]
    with mock.patch.object(regression, "minimize", scipys):
        theirs = [chosen(splits) for _ in range(3)]
    return {
        "images": len(y),
        "mean_squared_norm": float((x**2).sum(axis=1).mean()),
        "as they are": ours[0],
        "standardised": chosen(standardised(splits)),
        "seconds": {"ours": [one["seconds"] for one in ours], "scipy": [one["seconds"] for one in theirs]},
        "ladder": ladder,
    }


def main(arguments: list[str]) -> None:
    """Measures every dataset, prints tables, writes the JSON."""
    del arguments
    if not _DATA.value:
        raise UsageError("give --data=DATA")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    rows = {}
    for root in _DATA.value:
        found = rows[pathlib.Path(root).name] = measure(root)
        print(json.dumps({root: found}, indent=1), flush=True)
    figures = {
        "command": ["python", "-m", "benchmarks.head", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rows": rows,
    }
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written to {_OUTPUT.value}")


if __name__ == "__main__":
    run_command(main)
