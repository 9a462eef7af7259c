"""Runs the main job on an embedded default, offline, in minutes on two CPU cores: `make demo`.

    python -m examples.demo --output=demo-output

scikit-learn's 1,797 handwritten digits (8×8 pixels, from the UCI Optical Recognition of Handwritten Digits set) become
image files in class folders, with a few faults planted among them; then the commands that one would type for one's own
photos build the dataset, check it and fine-tune EfficientNet-Lite0. Run again, it finds all of it done and sums up.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from pipeline.command import CommandError, ExitCode, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.rows import checks_folder

_OUTPUT = flags.DEFINE_string("output", "demo-output", "Where everything goes.")

REQUIRED_ACCURACY = 0.98
SIDE = 64  # pixels: what the recipe feeds the model, so nothing is resized twice
PEAK = 16  # the digits' largest grey value


class DemoError(CommandError):
    """Reports that the demo did not do what it promises."""


def write_digits(folder: pathlib.Path) -> None:
    """Writes the digits as `folder/<digit>/<number>.jpg` or `.png`, faults included; whole or not at all."""
    if folder.exists():
        return
    from sklearn.datasets import load_digits

    digits = load_digits()
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    for label in range(10):
        (staging / str(label)).mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = np.round(pixels * (255 / PEAK)).astype(np.uint8)
        # Bicubic: enlarged by repetition, the picture would be eight-pixel squares, which no photo has shown the model.
        image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if number % 2:
            image.save(staging / str(label) / f"{number:04}.png")
        else:
            image.save(staging / str(label) / f"{number:04}.jpg", quality=95)
    _plant_faults(staging)
    os.rename(staging, folder)


def _plant_faults(folder: pathlib.Path) -> None:
    """Plants the faults that are found in every folder of scraped images."""
    photo = min((folder / "3").glob("*.jpg")).read_bytes()
    (folder / "3" / "half_downloaded.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "5" / "error_page.jpg").write_text("<html><body>404 Not Found</body></html>\n")
    shutil.copyfile(min((folder / "7").glob("*.png")), folder / "7" / "saved_twice.png")
    shutil.copyfile(min((folder / "4").glob("*.png")), folder / "9" / "also_filed_under_4.png")


def run_module(module: str, *arguments: str) -> None:
    """Runs `python -m module …` as a user would, shown and unchanged; DemoError if it fails."""
    print(f"\n$ {shlex.join(['python', '-m', module, *arguments])}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if code:
        raise DemoError(f"{module} ended with exit code {code}; its own message stands above")


def _rejects(directory: pathlib.Path) -> list[str]:
    """Lists what was left out, in lines: count and reason, then the files."""
    rows = [json.loads(line) for line in (directory / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    by_code: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        by_code[row["code"]].append(row)
    lines = []
    for code, group in sorted(by_code.items()):
        lines.append(f"  {len(group)} × {code}")
        lines += [f"      {'/'.join(row['uri'].split('/')[-2:])}: {row['detail']}" for row in group]
    return lines


def summary(output: pathlib.Path) -> tuple[str, float]:
    """Sums up what came out, for people; returns the text and the test accuracy."""
    dataset = open_dataset(output / "data")
    run, checks = output / "run", pathlib.Path(checks_folder(dataset))
    test = json.loads((run / "result.json").read_text(encoding="utf-8"))["splits"]["test"]
    accuracy = float(test["accuracy"])
    sizes = ", ".join(f"{dataset.manifest.num_examples(split)} {split}" for split in ("train", "validation", "test"))
    lines = [
        "",
        f"Dataset   {sizes}: images of {dataset.manifest.num_classes} classes in {dataset.path}",
        "Left out, with the reason (rejects.jsonl):",
        *_rejects(pathlib.Path(dataset.path)),
        f"Test      accuracy {accuracy:.4f} on {test['examples']} images that the model has never seen",
        *(
            f"  {row['label']}   {row['accuracy']:.3f}  ({row['correct']} of {row['examples']})"
            for row in test["per_class"]
        ),
        f"Check     {json.loads((checks / 'check.json').read_text(encoding='utf-8'))['verdict']}",
        f"          {checks / 'report.html'}",
        f"Report    {run / 'report.html'}",
        f"Model     {run / 'export'}",
        f"Metrics   {run / 'metrics.csv'}  (tensorboard --logdir={run})",
        "",
        "Next, your own photos, one folder a class:",
        "  python -m beam_jobs.build_tfrecords --source=folder --input=PHOTOS --output=DATA",
        "  python -m trainer.check --data=DATA",
        "  python -m trainer.main --data=DATA --recipe=photos --run=RUN",
    ]
    return "\n".join(lines), accuracy


def main(arguments: list[str]) -> ExitCode:
    """Makes a dataset and a model of the digits and sums up; DemoError below `REQUIRED_ACCURACY`."""
    started = time.monotonic()
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on the CPU would drown the progress

    write_digits(output / "digits")
    run_module(
        "beam_jobs.build_tfrecords",
        "--source=folder",
        f"--input={output / 'digits'}",
        f"--output={output / 'data'}",
        "--splits=train:0.7,validation:0.1,test:0.2",
        # Centred digits of 8×8 pixels all look alike to a perceptual hash; for photos the default, group, is right.
        "--near_duplicates=keep",
    )
    run_module("trainer.check", f"--data={output / 'data'}", "--recipe=quick")
    run_module("trainer.main", f"--data={output / 'data'}", "--recipe=quick", f"--run={output / 'run'}")
    text, accuracy = summary(output)
    print(text)
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    if accuracy < REQUIRED_ACCURACY:
        raise DemoError(f"test accuracy {accuracy:.4f} is below {REQUIRED_ACCURACY}, which this demo promises")
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
