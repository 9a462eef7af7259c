"""Compares the ways in which an image becomes a square, by a linear probe: `resize` of a recipe.

    python -m benchmarks.proportions --flowers=FLOWERS --pets=PETS --output=proportions.json

Images of four sets are shown to the frozen EfficientNet-Lite0 stretched, padded, cropped to their largest square, and
cropped to 7/8 of that; scikit-learn's LogisticRegression is fitted on the pooled features. Every seed splits a set
anew, stratified, four fifths (pets: two thirds) for fitting; the regularisation is chosen by cross-validation on these.
The same splits for all, so differences are paired.

 * flowers: a folder of one folder a class. pets: a folder of Oxford-IIIT Pet's images, classes the breeds.
 * tight: made. One ellipse or rectangle an image, 1:3 to 3:1, that fills the image but for a tenth of each side; its
   proportions are the class (seven), so tall images have other labels than wide ones. Colours, size and a gradient
   behind it are random.
 * loose: made. The same shapes, at most half as long as the shorter side, in the middle of an image whose own
   proportions, 1:2 to 2:1, are random: they say nothing about the class.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import platform
import statistics
import sys
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from pipeline.command import UsageError, run_command

if TYPE_CHECKING:
    from pipeline.view import View

_FLOWERS = flags.DEFINE_string("flowers", None, "Folder that holds one folder of photos a class.")
_PETS = flags.DEFINE_string("pets", None, "Folder of Oxford-IIIT Pet's images: Breed_name_123.jpg.")
_MADE = flags.DEFINE_integer("made", 60, "Images a class of the made sets.", lower_bound=6)
_SEEDS = flags.DEFINE_integer("seeds", 5, "Splits of each set.", lower_bound=2)
_OUTPUT = flags.DEFINE_string("output", "proportions.json", "Where the figures go.")

BACKBONE = "efficientnet_lite0"
PROBE_C = (0.001, 0.01, 0.1, 1.0)
RATIOS = (1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0)  # width / height of what is drawn
VIEWS = ("stretch", "pad", "crop", "crop 0.875")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Holds encoded images and their labels (int `[N]`); `folds`: a fold is held out."""

    images: list[bytes]
    labels: np.ndarray
    folds: int = 5


def _read(files: list[pathlib.Path], names: list[str], *, folds: int) -> ImageSet:
    """Reads files whose classes have at least as many images as there are folds."""
    counts = {name: names.count(name) for name in names}
    kept = [(file, name) for file, name in zip(files, names, strict=True) if counts[name] >= folds]
    classes = sorted({name for _, name in kept})
    labels = np.array([classes.index(name) for _, name in kept])
    return ImageSet(images=[file.read_bytes() for file, _ in kept], labels=labels, folds=folds)


def flowers(folder: pathlib.Path) -> ImageSet:
    files = sorted(folder.glob("*/*.jpg"))
    return _read(files, [file.parent.name for file in files], folds=5)


def pets(folder: pathlib.Path) -> ImageSet:
    files = sorted(folder.glob("*.jpg"))
    return _read(files, [file.stem.rpartition("_")[0] for file in files], folds=3)


def _drawn(rng: np.random.Generator, *, canvas: tuple[int, int], shape: tuple[int, int]) -> bytes:
    """Draws an ellipse or a rectangle in the middle of a gradient; sizes are widths and heights."""
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    image = corners.resize(canvas, Image.Resampling.BICUBIC)
    left, top = ((whole - part) / 2 for whole, part in zip(canvas, shape, strict=True))
    draw = ImageDraw.Draw(image)
    paint = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    colours = [tuple(int(value) for value in rng.integers(0, 256, 3)) for _ in range(2)]
    paint((left, top, left + shape[0], top + shape[1]), fill=colours[0], outline=colours[1], width=4)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def made(*, count: int, tight: bool) -> ImageSet:
    """Draws `count` images a class, see the head of this file."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for label, ratio in enumerate(RATIOS):
        for _ in range(count):
            if tight:
                longer = rng.integers(240, 500)
                shape = (longer * min(1.0, ratio), longer / max(1.0, ratio))
                canvas = tuple(round(side * 1.25) for side in shape)
            else:
                proportions = 2 ** rng.uniform(-1, 1)
                shorter = rng.integers(240, 400)
                canvas = (round(shorter * max(1.0, proportions)), round(shorter * max(1.0, 1 / proportions)))
                longer = shorter * rng.uniform(0.3, 0.5)
                shape = (longer * min(1.0, ratio), longer / max(1.0, ratio))
            images.append(_drawn(rng, canvas=canvas, shape=tuple(map(round, shape))))
            labels.append(label)
    return ImageSet(images=images, labels=np.array(labels))


def view_of(name: str) -> View:
    from pipeline.view import View

    resize, _, centre = name.partition(" ")
    return View(resize=resize, eval_centre=float(centre or 0))


def features(images: list[bytes], views: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Computes the frozen backbone's pooled features of all images in each view, float32 [N, 1280]."""
    import tensorflow as tf

    from pipeline.decode import decode_and_resize
    from pipeline.preprocess import preprocess
    from trainer.models import backbone_info
    from trainer.recipes.load import load_recipe
    from trainer.recipes.recipe import DataFacts
    from trainer.train.model import build_from_recipe

    info = backbone_info(BACKBONE)
    recipe = load_recipe("photos", DataFacts(num_train=1000, num_classes=2, max_side=1000), backbone=BACKBONE)
    backbone = build_from_recipe(recipe, num_classes=2, seed=0).backbone
    run = tf.function(lambda pixels: backbone(pixels, training=False))
    found = {}
    for name in views:
        view = view_of(name)

        def decode(encoded: tf.Tensor, view: View = view) -> tf.Tensor:
            pixels = decode_and_resize(encoded, height=info.image_size, width=info.image_size, view=view)
            return preprocess(pixels, info.preprocess)

        batches = tf.data.Dataset.from_tensor_slices(images).map(decode, num_parallel_calls=2).batch(32)
        found[name] = np.concatenate([run(batch).numpy() for batch in batches])
    return found


def accuracies(of_views: dict[str, np.ndarray], labels: np.ndarray, *, folds: int, seed: int) -> dict[str, float]:
    """Measures each view's probe on the same held-out part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    train, test = next(iter(parts.split(labels, labels)))
    warnings.filterwarnings("ignore", message="The number of unique classes")  # of 2 to 4 images each
    inner = StratifiedKFold(min(3, folds - 1), shuffle=True, random_state=seed)
    found = {}
    for name, x in of_views.items():
        search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": PROBE_C}, cv=inner)
        found[name] = float(search.fit(x[train], labels[train]).score(x[test], labels[test]))
    return found


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Lays out means ± standard deviations over the splits, and paired differences from stretching."""
    lines = [f"{'set':<10}" + "".join(f"{name:>16}" for name in VIEWS)]
    for name, splits in rows.items():
        values = [[split[view] for split in splits] for view in VIEWS]
        cells = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in values]
        lines.append(f"{name:<10}" + "".join(f"{cell:>16}" for cell in cells))
        differences = [[a - b for a, b in zip(v, values[0], strict=True)] for v in values]
        cells = ["", *(f"{statistics.mean(d):+.3f} ± {statistics.stdev(d):.3f}" for d in differences[1:])]
        lines.append(f"{'  − stretch':<10}" + "".join(f"{cell:>16}" for cell in cells)[1:])
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures every set, prints the table, writes the JSON."""
    del arguments
    sources = {"flowers": (_FLOWERS.value, flowers), "pets": (_PETS.value, pets)}
    for name, (folder, _) in sources.items():
        if folder and not pathlib.Path(folder).is_dir():
            raise UsageError(f"--{name}={folder}: no such folder")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sets = {name: read(pathlib.Path(folder)) for name, (folder, read) in sources.items() if folder}
    sets |= {"tight": made(count=_MADE.value, tight=True), "loose": made(count=_MADE.value, tight=False)}
    started, rows = time.monotonic(), {}
    for name, chosen in sets.items():
        of_views = features(chosen.images, VIEWS)
        rows[name] = [
            accuracies(of_views, chosen.labels, folds=chosen.folds, seed=seed) for seed in range(_SEEDS.value)
        ]
        print(f"{name}: {len(chosen.images)} images of {len(set(chosen.labels))} classes", flush=True)
    print(table(rows))
    figures = {
        "command": ["python", "-m", "benchmarks.proportions", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"written to {_OUTPUT.value}")


if __name__ == "__main__":
    run_command(main)
