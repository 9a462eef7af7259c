"""Measures how often the model gate promotes a model that is worse, and refuses one that is not.

    python -m benchmarks.model_gate simulate
    python -m benchmarks.model_gate golden DATA…

simulate: answers are drawn. A share of the images is uncertain, and on these a model is right with some probability,
so that the challenger is one percentage point worse (which is the margin: every promotion is a false one) or as good.
Seeds of a challenger share what is hard by `correlation`. Shown is how often it is promoted: judged by one seed and the
exact test, by 3 or 5 seeds averaged, and by one seed with half as many validation images pooled.

golden: heads on the frozen features of a dataset, the champion's and the challenger's learnt from two random halves of
the training images, which are equally good. Shown is how often the challenger gets golden images of the champion wrong.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from pipeline import averaged, noninferiority
from pipeline.command import UsageError, run_command
from pipeline.noninferiority import PairedCounts

_MARGIN, _ALPHA = 0.01, 0.05
_LEVEL_DRAWS, _POWER_DRAWS, _GOLDEN_DRAWS = 2_000, 500, 100
_GOLDEN = 24


@dataclasses.dataclass(frozen=True)
class World:
    """Describes images and models: how many images, the share that is uncertain, how alike seeds are."""

    images: int
    uncertain: float
    correlation: float


WORLDS = [
    World(images, uncertain, correlation)
    for images in (150, 300, 600, 1_500)
    for uncertain, correlation in ((0.03, 0.3), (0.1, 0.3), (0.1, 0.9), (0.3, 0.5))
]


def draw(world: World, images: int, *, seeds: int, worse: float, random: np.random.Generator) -> np.ndarray:
    """Draws the seeds' right answers less the champion's, [seeds, images] of −1, 0, 1."""
    uncertain = random.random(images) < world.uncertain
    better, lesser = (0.5 + sign * worse / (2 * world.uncertain) for sign in (1, -1))
    champion = ~uncertain | (random.random(images) < better)
    hard = random.random(images)
    rows = []
    for _ in range(seeds):
        own = np.where(random.random(images) < world.correlation, hard, random.random(images))
        rows.append((~uncertain | (own < lesser)).astype(int) - champion)
    return np.array(rows)


def promoted(differences: np.ndarray) -> bool:
    """Says what the gate makes of [seeds, images]."""
    if len(differences) == 1:
        wins, losses = (int((differences == value).sum()) for value in (1, -1))
        counts = PairedCounts(pairs=differences.shape[1], wins=wins, losses=losses)
        return noninferiority.p_value(counts, difference=-_MARGIN) <= _ALPHA
    found = averaged.p_value(differences.mean(axis=0), seeds=len(differences), difference=-_MARGIN)
    return found <= _ALPHA


def simulate() -> None:
    ways = {"one seed": (1, 1.0), "3 seeds": (3, 1.0), "5 seeds": (5, 1.0), "with validation": (1, 1.5)}
    for world in WORLDS:
        shown = []
        for name, (seeds, more) in ways.items():
            rates = []
            for worse, draws in ((_MARGIN, _LEVEL_DRAWS), (0.0, _POWER_DRAWS)):
                random = np.random.default_rng(0)
                images = round(world.images * more)
                hits = sum(promoted(draw(world, images, seeds=seeds, worse=worse, random=random)) for _ in range(draws))
                rates.append(f"{hits / draws:.1%}")
            shown.append(f"{name} {rates[0]} / {rates[1]}")
        print(f"{world}: false / right promotions: {', '.join(shown)}", flush=True)


def golden(roots: Sequence[str]) -> None:
    """Counts golden images of a champion that an equally good challenger misses."""
    from benchmarks.frozen import read
    from pipeline.linear.regression import cross_validate, fit_head
    from pipeline.predictions import Predictions
    from retrain.handover import too_many
    from trainer.serving.golden import surest

    for root in roots:
        splits = read(root)
        (train, labels), (test, truth) = splits["train"], splits["test"]
        names = [str(label) for label in range(labels.max() + 1)]
        weights = np.ones(len(names), np.float32)
        strength = cross_validate(train, labels, class_weights=weights, seed=0).strength
        random = np.random.default_rng(0)
        missed, lost, refused, accuracies = [], [], 0, []
        for _ in range(_GOLDEN_DRAWS):
            order = random.permutation(len(labels))
            answers = []
            for half in np.array_split(order, 2):
                head = fit_head(train[half], labels[half], class_weights=weights, strength=strength)
                logits = test @ head.kernel + head.bias
                logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
                answers.append(
                    Predictions(
                        ids=[str(at) for at in range(len(truth))], labels=truth, names=names, log_probabilities=logits
                    )
                )
            champion, challenger = answers
            chosen = surest(champion, most=_GOLDEN)
            missed.append(int((~challenger.correct[chosen]).sum()))
            lost.append((~challenger.correct[champion.correct]).mean())
            refused += too_many(missed[-1], len(chosen), lost[-1])
            accuracies.append(challenger.correct.mean())
        some, more = (np.mean(np.array(missed) >= count) for count in (1, 2))
        print(
            f"{pathlib.Path(root).name}: {len(truth)} test images, accuracy {np.mean(accuracies):.3f}; golden ones, of "
            f"{len(chosen)}, missed in {some:.0%} of {len(missed)} draws, two or more in {more:.0%}; others that the "
            f"champion had right {np.mean(lost):.1%}; refused {refused / len(missed):.0%}",
            flush=True,
        )


def main(arguments: list[str]) -> None:
    if arguments == ["simulate"]:
        simulate()
    elif arguments[:1] == ["golden"] and arguments[1:]:
        golden(arguments[1:])
    else:
        raise UsageError("say simulate, or golden and dataset roots; --help tells more")


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
