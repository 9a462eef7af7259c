"""Computes what a frozen backbone makes of a dataset's images, for benchmarks of what is fitted to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.format.manifest import DatasetVersion, open_dataset
from trainer.recipes.load import resolve
from trainer.request import Request

if TYPE_CHECKING:
    from trainer.recipes.recipe import Recipe

BACKBONE = "efficientnet_lite0"
SMALL = 64  # pixels: images no larger are seen at this size

Split = tuple[np.ndarray, np.ndarray]  # features float32 [N, F], labels int [N]


def features(data: DatasetVersion, split: str, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Computes the frozen backbone's pooled features (float32 [N, 1280]); returns them and labels (int [N])."""
    import tensorflow as tf

    from pipeline.dataset import eval_dataset
    from trainer.models import backbone_info
    from trainer.train.model import build_from_recipe

    backbone = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0).backbone
    run = tf.function(lambda images: backbone(images, training=False))
    size = {"height": recipe.image_size, "width": recipe.image_size, "view": recipe.view}
    preprocess = backbone_info(recipe.backbone).preprocess
    rows, labels = [], []
    for batch in eval_dataset(data, split, **size, preprocess=preprocess, global_batch_size=32):
        real = batch["weight"].numpy() > 0
        maps = run(batch["image"])
        rows.append((maps if maps.shape.rank == 2 else tf.reduce_mean(maps, axis=[1, 2])).numpy()[real])
        labels.append(batch["label"].numpy()[real])
    return np.concatenate(rows), np.concatenate(labels)


def read(root: str) -> dict[str, Split]:
    """Returns features and labels of every split."""
    data = open_dataset(root)
    small = max(data.manifest.max_height, data.manifest.max_width) <= SMALL
    settings = (f"image_size={SMALL}",) if small else ()
    recipe = resolve(
        Request(data=root, recipe="photos", backbone=BACKBONE, weights=None, settings=settings, seed=0), data
    )
    return {split: features(data, split, recipe) for split in ("train", "validation", "test")}
