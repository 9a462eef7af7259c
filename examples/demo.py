"""Runs the main job on an embedded default, offline, in minutes on two CPU cores: `make demo`.

    python -m examples.demo --output=demo-output

scikit-learn's 1,797 handwritten digits (8×8 pixels, from the UCI Optical Recognition of Handwritten Digits set) become
image files in class folders, with a few faults planted among them; then the command that one would type for one's own
photos, `python -m trainer.quickstart`, makes a model of them. Run again, it finds all of it done and sums up.
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
from pipeline.format.manifest import TEST, open_dataset
from trainer.quickstart.model import current_model
from trainer.quickstart.place import find_place

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


def quickstart(photos: pathlib.Path) -> None:
    """Runs `python -m trainer.quickstart` on the folder, as a user would, shown; DemoError if it fails."""
    # Centred digits of 8×8 pixels all look alike to a perceptual hash; for photos the default, group, is right.
    command = ["-m", "trainer.quickstart", os.fspath(photos), "--recipe=quick", "--near_duplicates=keep"]
    print(f"\n$ {shlex.join(['python', *command])}", flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        raise DemoError(f"trainer.quickstart ended with exit code {code}; its own message stands above")


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


def summary(photos: pathlib.Path) -> tuple[str, float]:
    """Sums up what came out, for people; returns the text and the test accuracy of the model that was taken."""
    place = find_place(os.fspath(photos), None)
    dataset, model = open_dataset(place.data), current_model(place)
    if model is None:
        raise DemoError(f"{place.model}: no model there")
    answers = model.answers(TEST)
    accuracy = float(answers.correct.mean())
    sizes = ", ".join(f"{dataset.manifest.num_examples(split)} {split}" for split in ("train", "validation", "test"))
    lines = [
        "",
        f"Dataset   {sizes}: images of {dataset.manifest.num_classes} classes in {dataset.path}",
        "Left out, with the reason (rejects.jsonl), among them the faults that were planted:",
        *_rejects(pathlib.Path(dataset.path)),
        f"Test      accuracy {accuracy:.4f} on {len(answers.ids)} images that the model has never seen",
        f"Model     {place.model} ({model.words})",
        f"Page      {place.page}",
        "",
        "Next, your own photos, one folder a class:",
        "  python -m trainer.quickstart PHOTOS",
    ]
    return "\n".join(lines), accuracy


def main(arguments: list[str]) -> ExitCode:
    """Makes a dataset and a model of the digits and sums up; DemoError below `REQUIRED_ACCURACY`."""
    started = time.monotonic()
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    photos = output / "digits"
    write_digits(photos)
    quickstart(photos)
    text, accuracy = summary(photos)
    print(text)
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    if accuracy < REQUIRED_ACCURACY:
        raise DemoError(f"test accuracy {accuracy:.4f} is below {REQUIRED_ACCURACY}, which this demo promises")
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main)
