"""Shows what a check found: a table, a picture, a file."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainer.fit_check.advice import (
    Advice,
    best_trial,
    fits,
)
from trainer.fit_check.sweep import RangeTest, Trial
from trainer.recipes.overrides import to_dict
from trainer.recipes.recipe import Recipe
from trainer.report.charts import GRID, INK, KEPT_COLOUR, TRAIN_COLOUR, VALIDATION_COLOUR


def table_row(trial: Trial, fits_at: float) -> str:
    """Formats a trial as a line under `TABLE_HEAD`."""
    last = f"{trial.losses[-1]:>9.4f}{trial.accuracies[-1]:>10.3f}" if trial.losses else f"{'-':>9}{'-':>10}"
    if trial.diverged:
        outcome = f"diverges in epoch {len(trial.losses) + 1}"
    else:
        outcome = f"fits in epoch {len(trial.losses)}" if fits(trial, fits_at) else "does not fit"
    return f"{trial.rate:>13.3g}{len(trial.losses):>8}{last}  {outcome}"


TABLE_HEAD = f"{'learning rate':>13}{'epochs':>8}{'loss':>9}{'accuracy':>10}"


def plot(ranged: RangeTest, trials: Sequence[Trial], *, fits_at: float, own: float) -> bytes:
    """Draws a PNG: the range test, and loss and accuracy of every rate."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    test, curves, accuracies = figure.subplots(1, 3)
    smoothed = ranged.smoothed()
    test.plot(ranged.rates, ranged.losses, color=TRAIN_COLOUR, linewidth=0.8)
    test.plot(ranged.rates, smoothed, color=VALIDATION_COLOUR)
    test.axvline(ranged.steepest(), color=KEPT_COLOUR, linewidth=1, linestyle="--")
    test.annotate(f" steepest {ranged.steepest():.2g}", (ranged.steepest(), smoothed[0]), color=KEPT_COLOUR, fontsize=8)
    test.set_ylim(0, 2 * smoothed[0])
    test.set_title("Range test: loss while the rate grows", loc="left", fontsize=11, color=INK)
    shades = np.linspace(0.25, 1, len(trials))
    for trial, shade in zip(trials, shades, strict=True):
        epochs = range(1, len(trial.losses) + 1)
        curves.plot(epochs, trial.losses, "o-", markersize=2.5, color=VALIDATION_COLOUR, alpha=shade)
        if trial.losses:
            curves.annotate(f" {trial.rate:g}", (len(trial.losses), trial.losses[-1]), fontsize=7, color=INK)
    curves.set_ylim(0, 2 * smoothed[0])
    curves.set_xlabel("epoch")
    curves.set_title("Training loss at each rate", loc="left", fontsize=11, color=INK)
    finished = [trial for trial in trials if not trial.diverged]
    accuracies.plot(
        [t.rate for t in finished], [t.accuracies[-1] for t in finished], "o-", color=VALIDATION_COLOUR, label="reached"
    )
    lost = [trial.rate for trial in trials if trial.diverged]
    accuracies.plot(lost, [0] * len(lost), "x", color=KEPT_COLOUR, label="diverged")
    accuracies.axhline(fits_at, color=TRAIN_COLOUR, linewidth=1, linestyle="--", label="fits")
    accuracies.axvline(own, color=INK, linewidth=1, linestyle=":", label="the recipe's own")
    accuracies.set_ylim(-0.03, 1.03)
    accuracies.set_title("Training accuracy at the end", loc="left", fontsize=11, color=INK)
    accuracies.legend(frameon=False, fontsize=8)
    for axes in (test, accuracies):
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
    for axes in (test, curves, accuracies):
        axes.grid(axis="y", color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def figures(
    ranged: RangeTest,
    trials: Sequence[Trial],
    advice: Advice,
    *,
    recipe: Recipe,
    images: int,
    seed: int,
    fits_at: float,
) -> dict[str, Any]:
    """Returns what fit_check.json holds."""
    best = best_trial(trials, fits_at)
    return {
        "recipe": to_dict(recipe),
        "images": images,
        "seed": seed,
        "fits_at": fits_at,
        "range_test": {
            "rates": [float(rate) for rate in ranged.rates],
            "losses": [float(loss) for loss in ranged.losses],
            "steepest": ranged.steepest(),
            "lowest": ranged.lowest(),
        },
        "trials": [{**dataclasses.asdict(trial), "fits": fits(trial, fits_at)} for trial in trials],
        "fits": advice.fits,
        "rate": best.rate if best else None,
        "advice": list(advice.text),
        "flags": list(advice.flags),
    }
