"""Measures a backbone for `trainer.auto.choice`: features of some training images, and heads on them."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.batching import HostSlice
from pipeline.dataset import eval_dataset
from pipeline.format.manifest import TRAIN, VALIDATION, DatasetVersion
from trainer.auto.choice import Candidate
from trainer.models import backbone_info
from trainer.recipes.load import resolve
from trainer.recipes.recipe import Phase, Recipe
from trainer.request import Request
from trainer.train.evaluation import compute_metrics
from trainer.train.model import first_model
from trainer.train.regression import cross_validate

_SAMPLE = 1_000  # training images
# Forward passes that a step takes: with the gradients of all layers, of the upper stages alone (benchmarks.freezing).
_PASSES_OF_ALL, _PASSES_OF_SOME = 3.0, 1.6


def measure(request: Request, data: DatasetVersion, backbone: str) -> Candidate:
    """Computes the features of up to 1,000 training images, and cross-validates a head on them.

    Args:
      request: what a run would do, with whatever backbone.
      data: the dataset that it names.
      backbone: the one to measure.
    """
    recipe = resolve(dataclasses.replace(request, backbone=backbone), data)
    features, labels, seconds = _features(recipe, data, seed=request.seed)
    weights = np.ones(data.manifest.num_classes, np.float32)
    unseen = cross_validate(features, labels, class_weights=weights, seed=request.seed)
    # Where no label has two images, nothing is known: that is guessing.
    metrics = compute_metrics(unseen.log_probabilities, labels[unseen.examples]) if len(unseen.examples) else None
    candidate = Candidate(
        backbone=backbone,
        image_size=recipe.resize_to or recipe.image_size,
        images_per_second=1 / seconds,
        seconds=seconds * _forward_passes(recipe, data),
        examples=metrics.examples if metrics else 1,
        correct=int(metrics.confusion.trace()) if metrics else 0,
        loss=metrics.loss if metrics else float(np.log(len(weights))),
    )
    logging.info("%s: cross-validated loss %.4f of %d images", backbone, candidate.loss, candidate.examples)
    return candidate


def _features(recipe: Recipe, data: DatasetVersion, *, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns features (float32 [N, F]) and labels (int [N]) of a sample, and seconds an image, compiling left out."""
    strategy = tf.distribute.get_strategy()
    backbone = first_model(recipe, labels=data.manifest.labels, seed=seed, strategy=strategy).lean_backbone
    run = tf.function(lambda images: backbone(images, training=False))
    info = backbone_info(recipe.backbone)
    batches = eval_dataset(
        data,
        TRAIN,
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=info.preprocess,
        global_batch_size=recipe.batch_size,
        view=recipe.view,
        host=HostSlice(),
        cache="none",
    )
    columns, started = [], 0.0
    for batch in batches.take(-(-_SAMPLE // recipe.batch_size)):
        real = batch["weight"].numpy() > 0
        columns.append((run(batch["image"]).numpy()[real], batch["label"].numpy()[real]))
        started = started or time.monotonic()
    timed = len(columns) - 1
    if not timed:  # the only batch once more, without the compiling
        run(batch["image"]).numpy()
        timed = 1
    seconds = (time.monotonic() - started) / (timed * recipe.batch_size)  # the last batch is filled up
    features, labels = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return features, labels, seconds


def _forward_passes(recipe: Recipe, data: DatasetVersion) -> float:
    """Counts the passes of one image forward through the backbone that take as long as a whole run."""
    training = data.manifest.num_examples(TRAIN)
    validation = data.manifest.num_examples(VALIDATION) if VALIDATION in data.manifest.splits else 0
    per_epoch = -(-training // recipe.batch_size)
    passes = 0.0
    for phase in recipe.phases:
        if phase.cached_features:
            passes += training + validation
        else:
            steps = phase.steps(steps_per_epoch=per_epoch)
            passes += steps * recipe.batch_size * _passes_of_a_step(phase) + steps / per_epoch * 2 * validation
    return passes


def _passes_of_a_step(phase: Phase) -> float:
    some = any(multiplier is None and pattern.startswith("backbone/") for pattern, multiplier in phase.trainable)
    return _PASSES_OF_SOME if some else _PASSES_OF_ALL
