r"""Finds out why a model does not learn: can it fit its training set at all, and from which learning rate?

    python -m trainer.fit_check DATA --recipe=photos [--set=key=value ...] [--output=DIR]

On a sample of the training split, with augmentation, dropout and all other regularisation off, it first raises the
learning rate step by step (the range test of arXiv 1506.01186), then trains from the first weights at each of a range
of rates that the test suggests and at the recipe's own. Earlier phases are not run: the phase starts from the recipe's
first weights. Prints a table and what to do; --output also gets fit_check.json and fit_check.png.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pipeline.command import UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.manifest import open_dataset
from pipeline.format.places import check_folder
from trainer.devices.chips import spare_metadata_server
from trainer.devices.choice import choose
from trainer.devices.tpu.hosts import find_place
from trainer.fit_check.asked import find_phase, parse_rates
from trainer.instead import set_instead
from trainer.readiness import check_request
from trainer.request import STRATEGIES, Request, define_flags
from trainer.rundir import fit_batch

if TYPE_CHECKING:
    from trainer.fit_check.advice import Advice

FLAGS = flags.FLAGS
define_flags()
flags.DEFINE_string("tpu", "", "As for trainer.main.")
flags.DEFINE_enum(
    "strategy", "auto", [kind for kind in STRATEGIES if kind != "multiworker"], "As for trainer.main; on one machine."
)
flags.DEFINE_string("phase", None, "Which phase of the recipe to try; default: the last.")
flags.DEFINE_integer("sample", 256, "Number of training images to fit.", lower_bound=2)
flags.DEFINE_integer("epochs", 0, "Longest a rate is tried for; 0: 20, or as many as make 100 steps.", lower_bound=0)
flags.DEFINE_list("rates", [], "Learning rates to try, e.g. 1e-4,1e-3; default: what the range test suggests.")
flags.DEFINE_string("output", None, "Folder for fit_check.json and fit_check.png.")
flags.DEFINE_alias("out", "output")


def main(arguments: list[str]) -> int | None:
    del arguments
    place = find_place(FLAGS.tpu, os.environ) if FLAGS.tpu else None
    if place and place.serves is not None:
        raise UsageError(
            f"--tpu={FLAGS.tpu}: a slice of {len(place.addresses)} hosts; take one of one host, or leave --tpu out"
        )
    given = parse_rates(FLAGS.rates)
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(FLAGS.data)
    full = check_request(Request.from_flags(FLAGS), data)
    index = find_phase(full, FLAGS.phase)
    choose(FLAGS.strategy, tpu=place.target if place else "", cluster=None)
    if FLAGS.output:
        check_folder(FLAGS.output, flag="output")
    # Takes seconds: TensorFlow.
    from trainer.devices.strategy import make_strategy
    from trainer.fit_check.advice import advise, fits, fitting_accuracy, next_rate, rates_to_try, with_own
    from trainer.fit_check.check import TABLE_HEAD, figures, plot, table_row
    from trainer.fit_check.sweep import HIGHEST, Sweep, Trial, unregularised
    from trainer.train.model import set_precision

    recipe = unregularised(full, index)
    (phase,) = recipe.phases
    strategy = make_strategy(place.target if place else "", kind=FLAGS.strategy)
    recipe = fit_batch(recipe, replicas=strategy.num_replicas_in_sync)
    set_precision(recipe, strategy)
    sweep = Sweep(recipe, data, strategy, sample=FLAGS.sample, epochs=FLAGS.epochs, seed=FLAGS.seed)
    images, most_frequent = len(sweep.labels), float(np.bincount(sweep.labels).max() / len(sweep.labels))
    fits_at = fitting_accuracy(most_frequent)
    print(
        f"phase {phase.name} of recipe {recipe.name} on {images} training images, nothing regularised, at most "
        f"{sweep.epochs} epochs; fits: training accuracy {fits_at:.3f}",
        flush=True,
    )
    ranged = sweep.range_test()
    print(
        f"range test: the loss falls fastest at {ranged.steepest():.2g} and is lowest at {ranged.lowest():.2g}",
        flush=True,
    )
    rates = with_own(given or rates_to_try(lowest_loss_at=ranged.lowest()), phase.lr_max)
    print(TABLE_HEAD, flush=True)
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
    if FLAGS.output:
        out = FLAGS.output
        storage.make_folder(out)
        content = figures(ranged, trials, advice, recipe=recipe, images=images, seed=FLAGS.seed, fits_at=fits_at)
        storage.write_atomically(storage.join(out, "fit_check.json"), json.dumps(content, indent=2) + "\n", shared=True)
        storage.write_atomically(
            storage.join(out, "fit_check.png"), plot(ranged, trials, fits_at=fits_at, own=phase.lr_max), shared=True
        )
        print(f"written to {out}: fit_check.json, fit_check.png")
    _tell_next(advice)
    return None


def _tell_next(advice: Advice) -> None:
    words = [FLAGS.data, f"--recipe={FLAGS.recipe}"]
    if not advice.fits:
        print_next("what does the model see?", "python -m pipeline.preview", *words)
        return
    settings = [f"--set={setting}" for setting in FLAGS.set]
    print_next("train with it:", "python -m trainer.main", *words, "--run=RUN", *settings, *advice.flags)


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data",), instead=set_instead, is_native=True)
