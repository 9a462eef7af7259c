r"""Finds out why a model does not learn: can it fit its training set at all, and from which learning rate?

    python -m trainer.fit_check --data=DATA --recipe=photos [--set=key=value ...] [--out=DIR]

On a sample of the training split, with augmentation, dropout and all other regularisation off, it first raises the
learning rate step by step (the range test of arXiv 1506.01186), then trains from the first weights at each of a range
of rates that the test suggests and at the recipe's own. Earlier phases are not run: the phase starts from the recipe's
first weights. Prints a table and what to do; --out also gets fit_check.json and fit_check.png.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath
from matplotlib.figure import Figure

from pipeline.command import UsageError, nearest, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.storage import write_atomically
from trainer.advice import Advice, advise, best_trial, fits, fitting_accuracy, next_rate, rates_to_try, with_own
from trainer.charts import GRID, INK, KEPT_COLOUR, TRAIN_COLOUR, VALIDATION_COLOUR
from trainer.config import Recipe
from trainer.overrides import to_dict
from trainer.request import Request
from trainer.run import resolve, set_precision
from trainer.settings import fit_batch
from trainer.strategy import make_strategy
from trainer.sweep import HIGHEST, RangeTest, Sweep, Trial, unregularised

FLAGS = flags.FLAGS


def find_phase(recipe: Recipe, name: str | None) -> int:
    """Index of a phase by its name, of the last one if None; UsageError with the nearest name if there is none."""
    names = [phase.name for phase in recipe.phases]
    if name is None:
        return len(names) - 1
    if name not in names:
        raise UsageError(
            f"--phase={name}: recipe {recipe.name} has the phases {', '.join(names)}.{nearest(name, names)}"
        )
    return names.index(name)


def parse_rates(texts: Sequence[str]) -> list[float]:
    """Sorted learning rates; UsageError if one is not a number above 0."""
    rates = []
    for text in texts:
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise UsageError(f"--rates: {text} is no learning rate; write numbers above 0, e.g. --rates=1e-4,3e-4,1e-3")
        rates.append(rate)
    return sorted(rates)


def table_row(trial: Trial, fits_at: float) -> str:
    """A line under `TABLE_HEAD`."""
    last = f"{trial.losses[-1]:>9.4f}{trial.accuracies[-1]:>10.3f}" if trial.losses else f"{'-':>9}{'-':>10}"
    if trial.diverged:
        outcome = f"diverges in epoch {len(trial.losses) + 1}"
    else:
        outcome = f"fits in epoch {len(trial.losses)}" if fits(trial, fits_at) else "does not fit"
    return f"{trial.rate:>13.3g}{len(trial.losses):>8}{last}  {outcome}"


TABLE_HEAD = f"{'learning rate':>13}{'epochs':>8}{'loss':>9}{'accuracy':>10}"


def plot(ranged: RangeTest, trials: Sequence[Trial], *, fits_at: float, own: float) -> bytes:
    """A PNG: the range test, and loss and accuracy of every rate."""
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
    """What fit_check.json holds."""
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


def main(arguments: list[str]) -> int | None:
    del arguments
    data = open_dataset(FLAGS.data)
    given = parse_rates(FLAGS.rates)
    request = Request(
        data=FLAGS.data,
        recipe=FLAGS.recipe,
        backbone=FLAGS.backbone,
        weights=FLAGS.weights,
        settings=tuple(FLAGS.set),
        seed=FLAGS.seed,
    )
    full = resolve(request, data)
    index = find_phase(full, FLAGS.phase)
    recipe = unregularised(full, index)
    (phase,) = recipe.phases
    strategy = make_strategy(FLAGS.tpu, kind=FLAGS.strategy)
    recipe = fit_batch(recipe, replicas=strategy.num_replicas_in_sync)
    set_precision(recipe, strategy)
    sweep = Sweep(recipe, data, strategy, sample=FLAGS.sample, epochs=FLAGS.epochs, seed=FLAGS.seed)
    images, most_frequent = len(sweep.labels), float(np.bincount(sweep.labels).max() / len(sweep.labels))
    fits_at = fitting_accuracy(most_frequent)
    print(
        f"phase {phase.name} of recipe {recipe.name} on {images} training images, nothing regularised, at most "
        f"{sweep.epochs} epochs; fits: training accuracy {fits_at:.3f}"
    )
    ranged = sweep.range_test()
    print(
        f"range test: the loss falls fastest at {ranged.steepest():.2g} and is lowest at {ranged.lowest():.2g}",
        flush=True,
    )
    rates = with_own(given or rates_to_try(lowest_loss_at=ranged.lowest()), phase.lr_max)
    print(TABLE_HEAD)
    trials: list[Trial] = []
    while rates:
        trials.append(sweep.trial(rates.pop(0), fits_at=fits_at))
        print(table_row(trials[-1], fits_at), flush=True)
        # Up to the first rate that is too high; those that fit take few epochs.
        if not rates and not given and fits(trials[-1], fits_at) and trials[-1].rate < HIGHEST:
            rates = [next_rate(trials[-1].rate)]
    advice = advise(
        trials,
        own=phase.lr_max,
        lr_min=phase.lr_min,
        phase=index,
        epochs=sweep.epochs,
        images=images,
        most_frequent=most_frequent,
    )
    print("\n".join(advice.text))
    if FLAGS.out:
        out = epath.Path(FLAGS.out)
        out.mkdir(parents=True, exist_ok=True)
        content = figures(ranged, trials, advice, recipe=recipe, images=images, seed=FLAGS.seed, fits_at=fits_at)
        write_atomically(out / "fit_check.json", json.dumps(content, indent=2) + "\n")
        write_atomically(out / "fit_check.png", plot(ranged, trials, fits_at=fits_at, own=phase.lr_max))
        print(f"written to {out}: fit_check.json, fit_check.png")
    return None


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Dataset root, or one version directory.", required=True)
    flags.DEFINE_string("recipe", "photos", "Name of a recipe in trainer/recipes, or the config.json of a run.")
    flags.DEFINE_string("backbone", None, "Another backbone than the recipe's own.")
    flags.DEFINE_string("weights", None, "imagenet, none, or the path of a weights file.")
    flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe, as for trainer.main (repeatable).")
    flags.DEFINE_integer("seed", 0, "Seeds the sample, its order and the first weights.", lower_bound=0)
    flags.DEFINE_string("tpu", "", "As for trainer.main.")
    flags.DEFINE_enum("strategy", "auto", ["auto", "tpu", "mirrored", "cpu"], "As for trainer.main; on one machine.")
    flags.DEFINE_string("phase", None, "Which phase of the recipe to try; default: the last.")
    flags.DEFINE_integer("sample", 256, "Number of training images to fit.", lower_bound=2)
    flags.DEFINE_integer(
        "epochs", 0, "Longest a rate is tried for; 0: 20, or as many as make 100 steps.", lower_bound=0
    )
    flags.DEFINE_list("rates", [], "Learning rates to try, e.g. 1e-4,1e-3; default: what the range test suggests.")
    flags.DEFINE_string("out", None, "Folder for fit_check.json and fit_check.png.")
    run_command(main)
