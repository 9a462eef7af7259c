"""Compares a fine-tuning recipe with a linear probe on the same splits of image sets: is fine-tuning worth it?

    python -m benchmarks.image_sets --flowers=FLOWERS … --output=SETS
    python -m benchmarks.finetune_vs_probe --photos=SETS/flowers --photos=SETS/digits --output=figures.json

For every set (a folder of one folder a class) and every seed, the set is split anew, 70 % train, 10 % validation, 20 %
test; sets of which no image is larger than 64 pixels are seen at 64, others at the recipe's size. Four contestants:
 * probe: scikit-learn's LogisticRegression on the frozen EfficientNet-Lite0's features, average-pooled, un-augmented,
   fitted on train, its regularisation chosen by five-fold cross-validation on that;
 * probe_more: the same on train + validation, an eighth more images than the others learn from;
 * head: the recipe's first phase alone, start to export: the time to the first usable model;
 * recipe: all of it.
The last two train on the train split, look at validation, and are measured once, on test, by what they report.

Gains over both probes are paired. Their 95 % intervals are a bootstrap over images, 2,000 draws: an image that several
seeds test is drawn with all its outcomes. They say nothing of other seeds or other sets.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from benchmarks.frozen import BACKBONE, SMALL, features
from pipeline.command import CommandError, UsageError, run_command
from pipeline.format.manifest import DatasetVersion, open_dataset
from trainer.report import scores
from trainer.request import Request

if TYPE_CHECKING:
    from trainer.recipes.recipe import Recipe

_PHOTOS = flags.DEFINE_multi_string("photos", [], "Folder that holds one folder of photos a class (repeatable).")
_RECIPE = flags.DEFINE_string("recipe", "photos", "What to fine-tune with.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of split and training.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where datasets and runs go; a run found there is not repeated.")
_OUTPUT = flags.DEFINE_string("output", "finetune_vs_probe.json", "Where the figures go.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the recipe, as of the trainer.")

PROBES = ("probe", "probe_more")
CONTESTANTS = (*PROBES, "head", "recipe")
PROBE_C = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # inverse strengths of regularisation; 1 is scikit-learn's default
SPLITS = "train:0.7,validation:0.1,test:0.2"
DRAWS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Holds what a contestant made of the test split of one set and seed.

    Attributes:
      correct: id of an image → whether its label was predicted.
      confidence: of these predictions, in the same order.
      loss: mean cross-entropy in nats.
      minutes: of wall time, start to export; of the probe, its features' and its fit's.
    """

    correct: dict[str, bool]
    confidence: list[float]
    loss: float
    minutes: float

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.correct.values())

    @property
    def calibration_error(self) -> float:
        return calibration_error([self])


Scores = dict[str, Score]  # of a set and seed: contestant → score


def calibration_error(of: Iterable[Score]) -> float:
    """Computes the expected calibration error, ten bins, of all answers together.

    Of few answers it is too large, for perfect ones too: the shares in a bin scatter (arXiv 2012.08668).
    """
    pairs = [pair for score in of for pair in zip(score.confidence, score.correct.values(), strict=True)]
    confidence, correct = (np.array(column) for column in zip(*pairs, strict=True))
    return scores.calibration_error(scores.reliability(confidence, correct))


def run_module(module: str, *arguments: str) -> float:
    """Runs `python -m module …`; returns the seconds it took."""
    print(f"$ python -m {module} {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if code:
        raise CommandError(f"{module} ended with exit code {code}; its own message stands above")
    return time.monotonic() - started


def probes(data: DatasetVersion, recipe: Recipe) -> Scores:
    """Fits the linear probe on train, and on train + validation, and measures them."""
    started = time.monotonic()
    train, validation, test = (features(data, split, recipe) for split in ("train", "validation", "test"))
    more = tuple(np.concatenate(arrays) for arrays in zip(train, validation, strict=True))
    seconds = time.monotonic() - started
    return {
        name: _probe(data, fitted, test, before=seconds) for name, fitted in zip(PROBES, (train, more), strict=True)
    }


def _probe(
    data: DatasetVersion, fitted: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...], *, before: float
) -> Score:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    from pipeline.dataset import example_ids

    started = time.monotonic() - before
    (x, y), (x_test, truth) = fitted, test
    warnings.filterwarnings("ignore", message="The number of unique classes")  # of a handful of images each
    folds = StratifiedKFold(min(5, np.bincount(y).min()), shuffle=True, random_state=0)
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": PROBE_C}, cv=folds, n_jobs=os.cpu_count())
    probabilities = search.fit(x, y).predict_proba(x_test)
    hits = probabilities.argmax(axis=1) == truth
    return Score(
        correct=dict(zip(example_ids(data, "test"), hits.tolist(), strict=True)),
        confidence=probabilities.max(axis=1).tolist(),
        loss=float(-np.log(probabilities[np.arange(len(truth)), truth]).mean()),
        minutes=(time.monotonic() - started) / 60,
    )


def train(data: str, run: pathlib.Path, *, seed: str, settings: Iterable[str]) -> Score:
    """Trains with the recipe, and reads what the run reports of its test split."""
    minutes_file = run.with_suffix(".minutes")
    seconds = run_module(
        "trainer.main",
        f"--data={data}",
        f"--recipe={_RECIPE.value}",
        f"--backbone={BACKBONE}",
        f"--workdir={run}",
        f"--seed={seed}",
        *(f"--set={assignment}" for assignment in settings),
    )
    if not minutes_file.exists():  # a finished run that is found again takes no time: keep the first one's
        minutes_file.write_text(f"{seconds / 60}")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()]
    return Score(
        correct={row["id"]: row["label"] == row["predicted"] for row in rows},
        confidence=[row["probability"] for row in rows],
        loss=result["splits"]["test"]["loss"],
        minutes=float(minutes_file.read_text()),
    )


def measure(photos: pathlib.Path, seed: str, work: pathlib.Path) -> Scores:
    """Builds, probes and trains for one set and seed."""
    from trainer.recipes.load import resolve

    root = str(work / f"{photos.name}-{seed}-data")
    run_module(
        "beam_jobs.build_tfrecords", f"--input={photos}", f"--output={root}", f"--splits={SPLITS}", f"--seed={seed}"
    )
    data = open_dataset(root)
    small = max(data.manifest.max_height, data.manifest.max_width) <= SMALL
    settings = (*([f"image_size={SMALL}"] if small else []), *_SET.value)
    request = Request(
        data=root, recipe=_RECIPE.value, backbone=BACKBONE, weights=None, settings=settings, seed=int(seed)
    )
    recipe = resolve(request, data)
    later = [f"phases.{index}.duration=0ep" for index in range(1, len(recipe.phases))]
    run = work / f"{photos.name}-{seed}"
    return {
        **probes(data, recipe),
        "head": train(root, run.with_name(f"{run.name}-head"), seed=seed, settings=(*settings, *later)),
        "recipe": train(root, run.with_name(f"{run.name}-recipe"), seed=seed, settings=settings),
    }


def gain(
    sets: Iterable[list[Scores]], contestant: str, over: str, *, by_image: bool = False
) -> tuple[float, float, float]:
    """Returns a contestant's mean gain in accuracy over another one, and its 95 % interval, in points.

    Args:
      sets: of each set, the scores of all seeds.
      contestant: head or recipe.
      over: one of the probes.
      by_image: whether all images weigh the same, instead of all sets.
    """
    rng = np.random.default_rng(0)
    means, draws, weights = [], [], []
    for seeds in sets:
        gains: dict[str, list[int]] = {}
        for found in seeds:
            for key, hit in found[contestant].correct.items():
                gains.setdefault(key, []).append(int(hit) - int(found[over].correct[key]))
        sums, counts = (np.array([of(values) for values in gains.values()]) for of in (sum, len))
        chosen = rng.integers(0, len(sums), (DRAWS, len(sums)))
        means.append(100 * sums.sum() / counts.sum())
        draws.append(100 * sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
        weights.append(counts.sum() if by_image else 1.0)
    low, high = np.quantile(np.average(draws, axis=0, weights=weights), [0.025, 0.975])
    return float(np.average(means, weights=weights)), float(low), float(high)


def table(rows: dict[str, list[Scores]]) -> str:
    """Lays out the figures as text: means over the seeds, and gains in points."""
    lines = [
        f"{'set':<10}{'test':>6}  {'contestant':<11}{'accuracy':>15}{'loss':>8}{'ECE':>7}{'minutes':>9}  "
        "gain over probe, over probe_more, points"
    ]

    def told(sets: list[list[Scores]], contestant: str, *, by_image: bool = False) -> str:
        gains = (gain(sets, contestant, probe, by_image=by_image) for probe in PROBES)
        return ", ".join("{:+.1f} [{:+.1f}, {:+.1f}]".format(*one) for one in gains)

    for name, seeds in rows.items():
        for contestant in CONTESTANTS:
            mine = [found[contestant] for found in seeds]
            accuracies = [score.accuracy for score in mine]
            spread = f" ± {statistics.stdev(accuracies):.3f}" if len(mine) > 1 else ""
            means = [statistics.mean(getattr(s, f) for s in mine) for f in ("loss", "calibration_error", "minutes")]
            lines.append(
                f"{name:<10}{len(mine[0].correct):>6}  {contestant:<11}{statistics.mean(accuracies):.3f}{spread:<10}"
                + "{:>8.3f}{:>7.3f}{:>9.2f}  ".format(*means)
                + ("" if contestant in PROBES else told([seeds], contestant))
            )
    every = list(rows.values())
    lines += [
        f"{c}: mean gain of the sets {told(every, c)}; of all images {told(every, c, by_image=True)}"
        for c in CONTESTANTS[len(PROBES) :]
    ]
    for c in CONTESTANTS:
        lines.append(f"{c}: ECE of all answers {calibration_error(found[c] for seeds in every for found in seeds):.3f}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures every set and seed, prints the table, writes the JSON."""
    del arguments
    folders = [pathlib.Path(folder) for folder in _PHOTOS.value]
    if not folders:
        raise UsageError("give --photos=FOLDER")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--photos={folder}: no such folder")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory(prefix="finetune_vs_probe-") as temporary:
        work = pathlib.Path(_WORKDIR.value or temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = {folder.name: [measure(folder, seed, work) for seed in _SEEDS.value] for folder in folders}
    print(table(rows))
    figures = {
        "command": ["python", "-m", "benchmarks.finetune_vs_probe", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rows": {
            name: [{c: dataclasses.asdict(score) for c, score in found.items()} for found in seeds]
            for name, seeds in rows.items()
        },
    }
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written to {_OUTPUT.value}")


if __name__ == "__main__":
    run_command(main)
