"""Measures a backbone for `trainer.auto.choice`: features of some images, heads on them, and steps of training."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.batching import HostSlice
from pipeline.dataset import eval_dataset
from pipeline.format.manifest import TRAIN, VALIDATION, DatasetVersion
from pipeline.linear.regression import cross_validate
from trainer.auto.choice import Candidate
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.recipes.load import resolve
from trainer.recipes.recipe import Phase, Recipe
from trainer.request import Request
from trainer.train.evaluation import compute_metrics
from trainer.train.model import first_model
from trainer.train.optimizer import trainable_groups

_SAMPLE = 1_000  # training images
_REST_SECONDS = 30.0  # of a run for what is not timed here: starting, a head, writing, export


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """Holds how long something takes.

    Attributes:
      first: seconds of the first time, which compiles.
      each: seconds of any other.
    """

    first: float
    each: float


def measure(request: Request, data: DatasetVersion, backbone: str) -> Candidate:
    """Computes the features of up to 1,000 training images, cross-validates a head on them, and times steps.

    Args:
      request: what a run would do, with whatever backbone.
      data: the dataset that it names.
      backbone: the one to measure.
    """
    recipe = resolve(dataclasses.replace(request, backbone=backbone), data)
    strategy = tf.distribute.get_strategy()
    classifier = first_model(recipe, labels=data.manifest.labels, seed=request.seed, strategy=strategy)
    features, labels, forward = _features(recipe, data, classifier)
    weights = np.ones(data.manifest.num_classes, np.float32)
    unseen = cross_validate(features, labels, class_weights=weights, seed=request.seed)
    # Where no label has two images, nothing is known: that is guessing.
    metrics = compute_metrics(unseen.log_probabilities, labels[unseen.examples]) if len(unseen.examples) else None
    candidate = Candidate(
        backbone=backbone,
        image_size=recipe.resize_to or recipe.image_size,
        images_per_second=recipe.batch_size / forward.each,
        seconds=_seconds(recipe, data, classifier, forward),
        examples=metrics.examples if metrics else 1,
        correct=int(metrics.confusion.trace()) if metrics else 0,
        loss=metrics.loss if metrics else float(np.log(len(weights))),
    )
    logging.info("%s: cross-validated loss %.4f of %d images", backbone, candidate.loss, candidate.examples)
    return candidate


def _features(recipe: Recipe, data: DatasetVersion, classifier: Classifier) -> tuple[np.ndarray, np.ndarray, Timed]:
    """Returns features (float32 [N, F]) and labels (int [N]) of a sample, and the time of a batch."""
    backbone = classifier.lean_backbone
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
    columns, begun, started = [], time.monotonic(), 0.0
    for batch in batches.take(-(-_SAMPLE // recipe.batch_size)):
        real = batch["weight"].numpy() > 0
        columns.append((run(batch["image"]).numpy()[real], batch["label"].numpy()[real]))
        started = started or time.monotonic()
    timed = len(columns) - 1
    if not timed:  # the only batch once more, without the compiling
        run(batch["image"]).numpy()
        timed = 1
    forward = Timed(first=started - begun, each=(time.monotonic() - started) / timed)  # the last batch is filled up
    features, labels = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return features, labels, forward


def _seconds(recipe: Recipe, data: DatasetVersion, classifier: Classifier, forward: Timed) -> float:
    """Estimates how long a whole run takes: what it compiles, its steps, and what it predicts meanwhile and after."""
    counts = {split: -(-data.manifest.num_examples(split) // recipe.batch_size) for split in data.manifest.splits}
    per_epoch, validation = counts[TRAIN], counts.get(VALIDATION, 0)
    seconds = _REST_SECONDS + 2 * forward.first  # of features, and of images
    seconds += (sum(counts.values()) - per_epoch) * forward.each
    for phase in recipe.phases:
        if phase.cached_features:
            seconds += (per_epoch + validation) * forward.each
        elif steps := phase.steps(steps_per_epoch=per_epoch):
            step = _step(recipe, phase, classifier)
            # After each epoch validation, and as many images of training.
            seconds += step.first + steps * step.each + steps / per_epoch * 2 * validation * forward.each
    return seconds


def _step(recipe: Recipe, phase: Phase, classifier: Classifier) -> Timed:
    """Times the gradient of what a phase trains, on a batch of blank images."""
    trained = [variable.value for group in trainable_groups(classifier, phase).values() for variable in group]
    images = tf.zeros([recipe.batch_size, recipe.image_size, recipe.image_size, 3])
    labels = tf.zeros([recipe.batch_size], tf.int32)

    @tf.function
    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            logits = classifier.head(classifier.backbone(images, training=False), training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tape.gradient(loss, trained)

    seconds = []
    for _ in range(2):
        started = time.monotonic()
        for tensor in gradient():
            tensor.numpy()
        seconds.append(time.monotonic() - started)
    return Timed(first=seconds[0] - seconds[1], each=seconds[1])
