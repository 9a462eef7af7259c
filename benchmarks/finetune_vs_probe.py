"""Compares a fine-tuning recipe with a linear probe on the same splits of real images: is fine-tuning worth it?

    python -m benchmarks.finetune_vs_probe --photos=FLOWERS --output=flowers.json
    python -m benchmarks.finetune_vs_probe --data=CIFAR10 --recipe=cifar10_efficientnet --set=resize_to=64

For every seed, `--photos` (a folder of one folder a class) is split anew, 70 % train, 10 % validation, 20 % test, or
`--data`, a built dataset, is taken as it is; and
 * the trainer fine-tunes EfficientNet-Lite0 with that seed: the train split for the gradient, validation for choosing
   the checkpoint, test once at the end;
 * scikit-learn's LogisticRegression is fitted on the frozen backbone's features, average-pooled, un-augmented, from
   images of the recipe's size; its regularisation is chosen on validation, as fine-tuning's checkpoint is. Twice: on
   the train split, and with the same regularisation on train + validation.
The second probe is the one to beat: it has seen every image that fine-tuning has.
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
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pipeline.command import CommandError, UsageError, run_command
from pipeline.format.manifest import DatasetVersion, open_dataset
from trainer.request import Request

if TYPE_CHECKING:
    from trainer.recipes.recipe import Recipe

_PHOTOS = flags.DEFINE_string("photos", None, "Folder that holds one folder of photos a class.")
_DATA = flags.DEFINE_string("data", None, "Instead of --photos: a dataset with train, validation and test.")
_RECIPE = flags.DEFINE_string("recipe", "photos", "What to fine-tune with.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of split and training.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where datasets and runs go; a run found there is not repeated.")
_OUTPUT = flags.DEFINE_string("output", "finetune_vs_probe.json", "Where the figures go.")
_SET = flags.DEFINE_multi_string("set", [], "Overrides of the recipe, as of the trainer.")

BACKBONE = "efficientnet_lite0"
PROBE_C = (0.001, 0.01, 0.1, 1.0)  # inverse strengths of regularisation; 1 is scikit-learn's default
SPLITS = "train:0.7,validation:0.1,test:0.2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Holds one seed's figures: accuracies on the test split; `minutes`: the trainer's wall time, start to export."""

    seed: int
    train: int
    validation: int
    test: int
    probe_train: float
    probe_train_validation: float
    fine_tuned: float
    minutes: float


def run_module(module: str, *arguments: str) -> float:
    """Runs `python -m module …`; returns the seconds it took."""
    print(f"$ python -m {module} {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if code:
        raise CommandError(f"{module} ended with exit code {code}; its own message stands above")
    return time.monotonic() - started


def features(data: DatasetVersion, split: str, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Computes the frozen backbone's pooled features (float32 [N, 1280]); returns them and labels (int [N])."""
    import tensorflow as tf

    from pipeline.dataset import eval_dataset
    from trainer.models import backbone_info
    from trainer.train.model import build_from_recipe

    backbone = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0).backbone
    size = {"height": recipe.image_size, "width": recipe.image_size, "view": recipe.view}
    preprocess = backbone_info(recipe.backbone).preprocess
    rows, labels = [], []
    for batch in eval_dataset(data, split, **size, preprocess=preprocess, global_batch_size=32):
        real = batch["weight"].numpy() > 0
        maps = backbone(batch["image"], training=False)
        rows.append((maps if maps.shape.rank == 2 else tf.reduce_mean(maps, axis=[1, 2])).numpy()[real])
        labels.append(batch["label"].numpy()[real])
    return np.concatenate(rows), np.concatenate(labels)


def probes(data: DatasetVersion, recipe: Recipe) -> tuple[float, float]:
    """Measures the test accuracy of the linear probe fitted on train, and on train + validation."""
    from sklearn.linear_model import LogisticRegression

    splits = (features(data, split, recipe) for split in ("train", "validation", "test"))
    (x, y), (x_more, y_more), (x_test, y_test) = splits
    fitted = [LogisticRegression(C=c, max_iter=5000).fit(x, y) for c in PROBE_C]
    on_train = max(fitted, key=lambda probe: probe.score(x_more, y_more))
    on_both = LogisticRegression(C=on_train.C, max_iter=5000)
    on_both.fit(np.concatenate([x, x_more]), np.concatenate([y, y_more]))
    return float(on_train.score(x_test, y_test)), float(on_both.score(x_test, y_test))


def measure(seed: int, work: pathlib.Path) -> Row:
    """Builds, probes and fine-tunes for one seed."""
    from trainer.recipes.load import resolve

    run = work / f"run-{seed}"
    data_root = _DATA.value or str(work / f"data-{seed}")
    if _PHOTOS.value:
        run_module(
            "beam_jobs.build_tfrecords",
            "--source=folder",
            f"--input={_PHOTOS.value}",
            f"--output={data_root}",
            f"--splits={SPLITS}",
            f"--seed={seed}",
        )
    data = open_dataset(data_root)
    minutes_file = work / f"minutes-{seed}.txt"
    seconds = run_module(
        "trainer.main",
        f"--data={data_root}",
        f"--recipe={_RECIPE.value}",
        f"--backbone={BACKBONE}",
        f"--workdir={run}",
        f"--seed={seed}",
        *(f"--set={assignment}" for assignment in _SET.value),
    )
    if not minutes_file.exists():  # a finished run that is found again takes no time: keep the first one's
        minutes_file.write_text(f"{seconds / 60}")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    request = Request(
        data=data_root, recipe=_RECIPE.value, backbone=BACKBONE, weights=None, settings=tuple(_SET.value), seed=seed
    )
    probe_train, probe_both = probes(data, resolve(request, data))
    return Row(
        seed=seed,
        train=data.manifest.num_examples("train"),
        validation=data.manifest.num_examples("validation"),
        test=data.manifest.num_examples("test"),
        probe_train=probe_train,
        probe_train_validation=probe_both,
        fine_tuned=float(result["splits"]["test"]["accuracy"]),
        minutes=float(minutes_file.read_text()),
    )


def table(rows: list[Row]) -> str:
    """Lays out the figures as text, with mean and standard deviation over the seeds."""
    head = (
        f"{'seed':>6}{'train':>8}{'valid.':>8}{'test':>7}{'probe':>10}{'probe t+v':>12}{'fine-tuned':>12}{'minutes':>9}"
    )
    lines = [head]
    for r in rows:
        lines.append(
            f"{r.seed:>6}{r.train:>8}{r.validation:>8}{r.test:>7}{r.probe_train:>10.4f}{r.probe_train_validation:>12.4f}"
            f"{r.fine_tuned:>12.4f}{r.minutes:>9.1f}"
        )
    columns = [
        [getattr(r, name) for r in rows] for name in ("probe_train", "probe_train_validation", "fine_tuned", "minutes")
    ]
    for name, value in (("mean", statistics.mean), ("± std", statistics.stdev)):
        if len(rows) > 1:
            probe, both, tuned, minutes = map(value, columns)
            lines.append(f"{name:>6}{'':23}{probe:>10.4f}{both:>12.4f}{tuned:>12.4f}{minutes:>9.1f}")
    gain = statistics.mean(r.fine_tuned - r.probe_train_validation for r in rows)
    lines.append(f"fine-tuned minus probe on train + validation, mean of the seeds: {gain:+.4f}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures every seed, prints the table, writes the JSON."""
    if bool(_PHOTOS.value) == bool(_DATA.value):
        raise UsageError("give either --photos=FOLDER or --data=DATASET")
    if _PHOTOS.value and not pathlib.Path(_PHOTOS.value).is_dir():
        raise UsageError(f"--photos={_PHOTOS.value}: no such folder")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory(prefix="finetune_vs_probe-") as temporary:
        work = pathlib.Path(_WORKDIR.value or temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = [measure(int(seed), work) for seed in _SEEDS.value]
    print(table(rows))
    figures = {
        "command": ["python", "-m", "benchmarks.finetune_vs_probe", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "settings": _SET.value,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"written to {_OUTPUT.value}")


if __name__ == "__main__":
    run_command(main)
