"""Solves for a classifier's head on cached features where a phase's method is regression.

The best head on these features and the best head to fine-tune from are two: the phase ends with the first, the phase
after it begins with the second.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging

from pipeline.command import CommandError
from pipeline.format.manifest import TRAIN
from pipeline.linear.regression import GENTLE, LinearHead, cross_validate, fit_head
from trainer.devices.workers import Workers
from trainer.models.classifier import LOGITS, Classifier
from trainer.train.evaluation import Metrics, compute_metrics
from trainer.train.features import FeatureCache
from trainer.train.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solved:
    """Holds what is known of a head once it is solved for.

    Attributes:
      sums: loss, correct predictions and weight, summed over the training split, as `Position.sums`.
      cross_validation: metrics of training images that the heads compared had not seen; None where no label has two.
    """

    sums: list[float]
    cross_validation: Metrics | None


def solve_head(classifier: Classifier, cache: FeatureCache, plan: Plan, workers: Workers) -> Solved:
    """Gives the head the weights of a regression on the training split's features; all workers the chief's.

    Raises:
      TryAgainError: asked to stop; nothing is changed.
      CommandError: the features are no finite numbers.
    """
    features, labels = (tensor.numpy() for tensor in cache.splits[TRAIN])
    if not np.isfinite(features.sum(dtype=np.float64)):
        raise CommandError(
            f"the backbone's features of {TRAIN} are not finite numbers; look at its weights "
            f"(weights={plan.recipe.weights}), or set precision=float32"
        )
    with plan.at_once():
        found = cross_validate(features, labels, class_weights=plan.class_weights, seed=plan.seed)
    head = _give_head(classifier, cache, plan, workers, strength=found.strength)
    log_probabilities = head.log_probabilities(features)
    losses = -log_probabilities[np.arange(len(labels)), labels] * plan.class_weights[labels]
    hits = np.count_nonzero(log_probabilities.argmax(axis=1) == labels)
    unseen = compute_metrics(found.log_probabilities, labels[found.examples]) if len(found.examples) else None
    logging.info("the head is solved for, with an l2 of %g images' worth%s", found.strength, _told(unseen))
    return Solved(sums=[float(losses.sum(dtype=np.float64)), float(hits), float(len(labels))], cross_validation=unseen)


def soften_head(classifier: Classifier, cache: FeatureCache, plan: Plan, workers: Workers) -> None:
    """Gives the head the weights of a regression that is less sure of itself, to fine-tune from; raises as above."""
    _give_head(classifier, cache, plan, workers, strength=GENTLE)


def _give_head(
    classifier: Classifier, cache: FeatureCache, plan: Plan, workers: Workers, *, strength: float
) -> LinearHead:
    features, labels = (tensor.numpy() for tensor in cache.splits[TRAIN])
    with plan.at_once():
        head = fit_head(features, labels, class_weights=plan.class_weights, strength=strength)
    # Other machines may round otherwise.
    head = LinearHead(kernel=workers.from_chief(head.kernel), bias=workers.from_chief(head.bias))
    layer = classifier.head.get_layer(LOGITS)
    layer.kernel.assign(head.kernel)
    layer.bias.assign(head.bias)
    return head


def _told(unseen: Metrics | None) -> str:
    if unseen is None:
        return ": no label has two images, so it was not looked for"
    return (
        f": in cross-validation, of {unseen.examples} images not seen, loss {unseen.loss:.4f} "
        f"accuracy {unseen.accuracy:.4f}"
    )
