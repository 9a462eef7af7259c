"""Makes rows, and folders of small images, and runs builds of them in the test's own process or as commands."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from beam_jobs import build
from beam_jobs.config import BuildConfig
from beam_jobs.elements import Item, Row, alone
from beam_jobs.sources.folder import FolderSource
from beam_jobs.splits import SplitFractions
from pipeline.images.facts import ImageFacts
from pipeline.images.policy import PixelPolicy

SPLITS = "train:0.8,validation:0.1,test:0.1"


def save_image(path: pathlib.Path, seed: int, *, size: tuple[int, int] = (24, 32)) -> None:
    """Writes an image (height, width) that no other seed gives: a few random rectangles on a gradient."""
    rng = np.random.default_rng(seed)
    height, width = size
    pixels = np.linspace(0, 255, width)[None, :, None] * rng.random(3) + np.zeros((height, width, 3))
    for _ in range(6):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pixels[y : y + rng.integers(2, height), x : x + rng.integers(2, width)] = rng.integers(0, 256, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_folder(
    root: pathlib.Path, *, labels: Sequence[str] = ("cat", "dog"), images: int = 20, first: int = 0
) -> None:
    """Writes `images` per label, JPEG and PNG in turn."""
    for number, label in enumerate(labels):
        for i in range(images):
            seed = first + number * 1000 + i
            save_image(root / label / f"{seed}.{'jpg' if i % 2 else 'png'}", seed)


def make_row(
    uri: str,
    *,
    id: bytes,
    pixels: bytes | None = None,
    label: str = "cat",
    official: str | None = None,
    size: tuple[int, int] = (10, 20),
    keeps_bytes: bool = True,
) -> Row:
    """Makes the row of an image of this (height, width) as inspection would; nothing looks like it."""
    facts = ImageFacts(
        sha256=id.hex(),
        pixel_sha256=(pixels or id).hex(),
        height=size[0],
        width=size[1],
        channels=3,
        format="JPEG" if keeps_bytes else "PNG",
        keeps_bytes=keeps_bytes,
        perceptual_hash=b"",
        brightness=0.5,
        sharpness=0.1,
    )
    return alone(Item(uri=uri, label=label, split=official), 1000, facts)


def config(output: pathlib.Path, **changes: object) -> BuildConfig:
    """Makes the configuration of the command's defaults, with `changes`."""
    values: dict[str, object] = {
        "source_name": "folder",
        "name": "photos",
        "fractions": SplitFractions.parse(SPLITS),
        "split_by": "rank",
        "near_duplicates": "group",
        "validation_fraction": 0.1,
        "seed": 0,
        "policy": PixelPolicy(),
        "max_reject_fraction": 0.1,
        "output": str(output),
    }
    return BuildConfig(**{**values, **changes})  # type: ignore[arg-type]


def run_build(
    folder: pathlib.Path, output: pathlib.Path, *, beam_arguments: Sequence[str] = (), **changes: object
) -> build.Outcome:
    """Builds in this process."""
    return build.build(FolderSource(str(folder)), config(output, **changes), beam_arguments)


def command(folder: pathlib.Path | str, output: pathlib.Path | str, *arguments: str) -> list[str]:
    """Spells the build as a command line."""
    paths = [f"--input={folder}", f"--output={output}"]
    return [sys.executable, "-m", "beam_jobs.build_tfrecords", *paths, "--name=photos", *arguments]


def run_command(
    folder: pathlib.Path | str, output: pathlib.Path | str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(command(folder, output, *arguments), capture_output=True, text=True, timeout=120, check=False)


def files_of(version: str | pathlib.Path) -> dict[str, bytes]:
    """Reads a version directory: file name → content."""
    return {entry.name: pathlib.Path(entry.path).read_bytes() for entry in os.scandir(version)}
