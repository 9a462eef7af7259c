"""Measures what it brings to start from the last model instead of from the recipe's weights, on photos that grow.

    python -m benchmarks.warm_start --photos=PHOTOS --work=WORK --seeds=3

PHOTOS holds a folder a class. On four days there are a quarter, a half, three quarters and all of them. Every day a
model is trained cold, and others from their own predecessor: with all of its weights, and with half of them (shrink and
perturb). Shown is the accuracy on the test images of the last day, which no model has seen, for each day and seed.
"""

from __future__ import annotations

import collections
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from absl import flags

from pipeline.command import UsageError, run_command
from pipeline.predictions import from_bytes

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of class folders.")
_WORK = flags.DEFINE_string("work", None, "Folder for what is made; what is there already is used again.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How often.")
_RECIPE = flags.DEFINE_string("recipe", "quick", "Recipe of the trainer.")
_DAYS = 4
_WAYS = {"cold": None, "all of the last": 1.0, "half of the last": 0.5}  # share of the predecessor's weights


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _build(photos: pathlib.Path, day: int, work: pathlib.Path) -> pathlib.Path:
    """Builds the dataset of a day; an image stays in its split for ever."""
    data = work / f"day{day}-data"
    if not (data / "CURRENT").exists():
        folder = work / f"day{day}"
        for label in sorted(path for path in photos.iterdir() if path.is_dir()):
            files = sorted(label.iterdir())
            (folder / label.name).mkdir(parents=True, exist_ok=True)
            for file in files[: len(files) * day // _DAYS]:
                shutil.copy(file, folder / label.name)
        flags_of = ("--split_by=hash", "--splits=train:0.6,validation:0.1,test:0.3")
        _run("beam_jobs.build_tfrecords", f"--input={folder}", f"--output={data}", *flags_of)
    return data


def _accuracy(run: pathlib.Path, data: pathlib.Path) -> float:
    output = run / "last-day.npz"
    if not output.exists():
        _run("trainer.evaluate", f"--model={run / 'export'}", f"--data={data}", "--split=test", f"--output={output}")
    return float(from_bytes(output.read_bytes(), file=str(output), again="it").correct.mean())


def main(arguments: list[str]) -> None:
    del arguments
    if not _PHOTOS.value or not _WORK.value:
        raise UsageError("give --photos=FOLDER and --work=FOLDER")
    work = pathlib.Path(_WORK.value)
    days = {day: _build(pathlib.Path(_PHOTOS.value), day, work) for day in range(1, _DAYS + 1)}
    found: dict[str, list[list[float]]] = collections.defaultdict(list)
    for seed in range(_SEEDS.value):
        for way, share in _WAYS.items():
            before, row = None, []
            for day, data in days.items():
                # The first day is cold in every way.
                run = work / f"{'cold' if before is None else way.replace(' ', '-')}-day{day}-seed{seed}"
                more = [f"--init={before}", f"--set=init_share={share}"] if share and before else []
                started = time.monotonic()
                command = [f"--data={data}", f"--recipe={_RECIPE.value}", f"--workdir={run}", f"--seed={seed}"]
                _run("trainer.main", *command, *more)
                row.append(_accuracy(run, days[_DAYS]))
                before = run
                print(f"seed {seed}, {way}, day {day}: {row[-1]:.4f}, {time.monotonic() - started:.0f} s", flush=True)
            found[way].append(row)
    for way, rows in found.items():
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        gains = [row[-1] - cold[-1] for row, cold in zip(rows, found["cold"], strict=True)]
        print(
            f"{way}: accuracy day by day {', '.join(f'{mean:.3f}' for mean in means)}; on the last day more than cold "
            f"by {', '.join(f'{gain:+.3f}' for gain in gains)} (seed by seed)"
        )
    (work / "figures.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    run_command(main)
