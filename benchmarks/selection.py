r"""Shows what each rule for the weights that a run keeps loses, with validation splits of any size.

    python -m benchmarks.selection --data=DATA --recipe=cifar10_cnn --set=phases.0.duration=15ep --seeds=3

Trains once a seed and notes what every epoch's weights say of all validation images. Of these, some are then drawn,
again and again, to be the validation that a rule may see; how good the epoch really is that it takes, the others tell.
For each number of images the table has what each rule loses: accuracy on the others, against the epoch best there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from pipeline.command import run_command
from pipeline.format.manifest import VALIDATION, open_dataset
from trainer.devices.chips import spare_metadata_server
from trainer.request import Request, define_flags

FLAGS = flags.FLAGS
define_flags()
flags.DEFINE_integer("seeds", 3, "Number of runs, --seed and those after it.", lower_bound=1)
flags.DEFINE_list("sizes", ["35", "70", "200", "700"], "Numbers of validation images that a rule may see.")
flags.DEFINE_integer("draws", 200, "How often validation is drawn for each run and size.", lower_bound=1)

Rule = Callable[
    [np.ndarray, np.ndarray], int
]  # (log-probabilities [epochs, n, C], labels [n]) → the epoch that is kept


def rules() -> dict[str, Rule]:
    from pipeline.linear.calibration import fit_temperature, with_temperature
    from trainer.train.selection import Outcomes, luck

    def accuracies(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (found.argmax(axis=2) == labels).mean(axis=1)

    def best(found: np.ndarray, labels: np.ndarray) -> int:
        hits = accuracies(found, labels)
        return len(hits) - 1 - int(hits[::-1].argmax())  # of equals the later one

    def lowest_loss(found: np.ndarray, labels: np.ndarray) -> int:
        losses = []
        for epoch in found:
            scaled = with_temperature(epoch, fit_temperature(epoch, labels))
            losses.append(-scaled[np.arange(len(labels)), labels].mean())
        return int(np.argmin(losses))

    def unless_luck(level: float) -> Rule:
        def last_unless(found: np.ndarray, labels: np.ndarray) -> int:
            epoch = best(found, labels)
            chance = luck(Outcomes.of(found[epoch], labels), Outcomes.of(found[-1], labels), "accuracy")
            return epoch if chance <= level else len(found) - 1

        return last_unless

    return {
        "best": best,
        "last": lambda found, labels: len(found) - 1,
        "last unless p ≤ 0.01": unless_luck(0.01),
        "last unless p ≤ 0.05": unless_luck(0.05),
        "last unless p ≤ 0.2": unless_luck(0.2),
        "lowest loss at its temperature": lowest_loss,
    }


def record(seed: int, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Trains, and returns every epoch's log-probabilities of validation, [epochs, N, C], and the labels, [N]."""
    from trainer.devices.strategy import make_strategy
    from trainer.recipes.load import resolve
    from trainer.train.loop import Trainer
    from trainer.train.model import build_from_recipe, set_precision
    from trainer.train.plan import Plan, class_weights

    data = open_dataset(FLAGS.data)
    recipe = resolve(Request.from_flags(FLAGS), data)
    strategy = make_strategy("", kind="auto")
    set_precision(recipe, strategy)
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=seed)
    weights = class_weights(recipe, data)
    plan = Plan(recipe=recipe, data=data, seed=seed, run=folder, class_weights=weights, stop_requested=lambda: False)
    trainer = Trainer(plan, classifier, strategy)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    ask = trainer.predictor.log_probabilities

    def ask_and_note(split: str, cache: object = None) -> tuple[np.ndarray, np.ndarray]:
        found.append(ask(split, cache))
        return found[-1]

    trainer.predictor.log_probabilities = ask_and_note  # type: ignore[method-assign]
    trainer.train()
    return np.stack([logits for logits, _ in found]), found[0][1]


def regrets(
    found: np.ndarray, labels: np.ndarray, *, size: int, draws: int, rng: np.random.Generator
) -> dict[str, float]:
    """Returns each rule's mean loss of accuracy in points, against the epoch that is best on what it does not see."""
    lost: dict[str, list[float]] = {name: [] for name in rules()}
    for _ in range(draws):
        order = rng.permutation(len(labels))
        seen, others = order[:size], order[size:]
        truth = (found[:, others].argmax(axis=2) == labels[others]).mean(axis=1)
        for name, rule in rules().items():
            lost[name].append(100 * float(truth.max() - truth[rule(found[:, seen], labels[seen])]))
    return {name: float(np.mean(values)) for name, values in lost.items()}


def show(sizes: Sequence[int], table: dict[int, list[dict[str, float]]]) -> None:
    print("| rule | " + " | ".join(f"{size} images" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name in rules():
        cells = []
        for size in sizes:
            values = [run[name] for run in table[size]]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> None:
    del arguments
    spare_metadata_server()
    sizes = [int(size) for size in FLAGS.sizes]
    table: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for seed in range(FLAGS.seed, FLAGS.seed + FLAGS.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found, labels = record(seed, os.path.join(folder, "run"))
        accuracies = (found.argmax(axis=2) == labels).mean(axis=1)
        print(f"seed {seed}, {len(labels)} {VALIDATION} images, accuracy by epoch: {np.round(accuracies, 3).tolist()}")
        for size in sizes:
            rng = np.random.default_rng([seed, size])
            table[size].append(regrets(found, labels, size=size, draws=FLAGS.draws, rng=rng))
    show(sizes, table)


if __name__ == "__main__":
    run_command(main)
