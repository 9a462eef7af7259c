"""Finds what helps to understand a model's mistakes: features of its images, and where it looks.

Where it looks, by occlusion (Zeiler and Fergus 2014, arXiv 1311.2901): a part of the picture is covered, and the
probability of the answer falls, or does not.
"""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from pipeline.batching import HostSlice
from pipeline.format.manifest import TRAIN
from trainer.devices.strategy import is_tpu
from trainer.models.classifier import Classifier
from trainer.report.explanations import Explanations
from trainer.train.plan import Plan
from trainer.train.predictor import Predictor
from trainer.train.step import Forward, evaluation_forward

_MOST = 1_000  # images of a split
_LOOKED_AT = 8
_PARTS = 7  # a side is cut into so many
_PICTURE = 160  # pixels, at most


def explain(
    plan: Plan,
    classifier: Classifier,
    predictor: Predictor,
    strategy: tf.distribute.Strategy,
    split: str,
    log_probabilities: np.ndarray,
    labels: np.ndarray,
) -> Explanations:
    """Explains what a model answers to the first images of a split, and its worst mistakes among these.

    Args:
      plan: of the run.
      classifier: that has answered.
      predictor: of this classifier.
      strategy: of the run, on one machine.
      split: that was predicted.
      log_probabilities: float32 [N, C], nats, of the whole split in file order.
      labels: int [N].
    """
    features, some = predictor.features(split, most=_MOST)
    train_features, train_labels = predictor.features(TRAIN, most=_MOST)
    predictor.remove_features()
    losses = -log_probabilities[np.arange(len(some)), labels[: len(some)]]
    wrong = log_probabilities[: len(some)].argmax(axis=1) != labels[: len(some)]
    worst = [int(at) for at in np.argsort(-losses, kind="stable") if wrong[at]][:_LOOKED_AT]
    if is_tpu(strategy):  # compiled once more, for a batch of its own, for minutes
        worst = []
    ids = _first_ids(plan, split, len(some))
    images = _images_at(plan, split, worst)
    forward = tf.function(evaluation_forward(classifier), reduce_retracing=True)
    answers = log_probabilities.argmax(axis=1)
    heat = [_heat(image, int(answers[at]), forward) for at, image in zip(worst, images, strict=True)]
    return Explanations(
        split=split,
        ids=ids,
        features=features,
        train_ids=_first_ids(plan, TRAIN, len(train_labels)),
        train_labels=train_labels,
        train_features=train_features,
        looked_at=[ids[at] for at in worst],
        pictures=np.array([_picture(image) for image in images], np.uint8),
        heat=np.array(heat, np.float32),
    )


def _first_ids(plan: Plan, split: str, count: int) -> list[str]:
    return [record.id for record in itertools.islice(plan.data.read(split), count)]


def _images_at(plan: Plan, split: str, positions: list[int]) -> list[np.ndarray]:
    """Returns the images at positions of a split, float32 [H, W, 3], as the model takes them."""
    size = plan.recipe.batch_size
    found: dict[int, np.ndarray] = {}
    whole = plan.with_images()
    for number, batch in enumerate(whole.eval_data(split, in_part=True)(HostSlice())):
        if len(found) == len(positions):
            break
        inside = [at for at in positions if at // size == number]
        if inside:
            images = whole.images(batch, augment=False).numpy()
            found |= {at: images[at % size] for at in inside}
    return [found[at] for at in positions]


def _heat(image: np.ndarray, answer: int, forward: Forward) -> np.ndarray:
    """Returns by how much the probability of an answer falls, float [G, G], where a part of the image is covered."""
    covered = np.repeat(image[np.newaxis], _PARTS**2 + 1, axis=0)
    rows, columns = (np.linspace(0, side, _PARTS + 1).round().astype(int) for side in image.shape[:2])
    mean = image.mean(axis=(0, 1))
    for part in range(_PARTS**2):
        row, column = divmod(part, _PARTS)
        covered[part, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
    probabilities = np.exp(forward(tf.constant(covered)).numpy()[:, answer])
    return np.maximum(probabilities[-1] - probabilities[:-1], 0).reshape(_PARTS, _PARTS)


def _picture(image: np.ndarray) -> np.ndarray:
    """Returns an image that the model takes, of any range, as one for people: uint8, at most `_PICTURE` pixels."""
    step = -(-max(image.shape[:2]) // _PICTURE)
    small = image[::step, ::step]
    low, high = small.min(), small.max()
    return np.round((small - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
