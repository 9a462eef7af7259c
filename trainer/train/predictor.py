"""Asks a classifier about whole splits: features, log-probabilities; or about a part of a split, as validation does."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batching import HostSlice
from pipeline.reader import eval_order
from trainer.devices.workers import Workers
from trainer.models.classifier import Classifier
from trainer.train.evaluation import Evaluator
from trainer.train.features import FeatureCache, FeatureParts
from trainer.train.feed import distribute
from trainer.train.plan import Plan
from trainer.train.step import evaluation_forward


class Predictor:
    """Computes what a classifier makes of a plan's images, none of them augmented, on all of a strategy's replicas."""

    def __init__(self, plan: Plan, classifier: Classifier, strategy: tf.distribute.Strategy) -> None:
        self._plan, self._strategy, self._machines = plan, strategy, Workers(strategy).machines
        self._known: dict[str, tuple[FeatureCache | None, Any]] = {}
        self._parts = FeatureParts(plan, classifier, strategy)
        head, backbone = classifier.head, classifier.lean_backbone
        images = functools.partial(plan.images, augment=False)
        self._features = Evaluator(strategy, lambda x: backbone(x, training=False), images)
        self._on_features = Evaluator(strategy, lambda x: tf.nn.log_softmax(head(x, training=False)))
        self._on_images = Evaluator(strategy, evaluation_forward(classifier), images)

    def features(self, split: str, *, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the backbone's features (float32 [N, …]) and the labels (int32 [N]) of a split, in file order.

        Where one machine computes them all, the run keeps them part by part, until `remove_features`.

        Args:
          split: its name.
          most: how many examples one machine computes, rounded up to whole batches; None for all.
        """
        if self._machines > 1:  # each of which computes other examples of the split
            return self._whole(self._features, split)
        with self._plan.at_once():
            return self._parts.features(split, self._features, most=most)

    @property
    def computed_features(self) -> int:
        """Counts the images whose features were computed here, not read."""
        return self._parts.computed

    def remove_features(self) -> None:
        """Removes the features that the run keeps."""
        self._parts.remove()

    def log_probabilities(
        self, split: str, cache: FeatureCache | None = None, *, told: Callable[[int], object] = lambda done: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log-probabilities (float32 [N, C], nats) and labels (int32 [N]) of a split, in file order.

        Args:
          split: its name.
          cache: the split's features, if they are known.
          told: is called with the number of examples that are done, each time there are more.
        """
        if cache:
            data = self._data(f"all of {split}", cache.eval_data(split), cache)
            return self._on_features(data, batches=self._plan.batches(split))
        return self._whole(self._on_images, split, told)

    def log_probabilities_of_sample(
        self, split: str, examples: int, cache: FeatureCache | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Does the same for the first batches of a split that hold so many examples: the same ones on any machines."""
        plan = self._plan
        batches = min(plan.batches(split), math.ceil(examples / plan.recipe.batch_size))
        if cache:
            data = self._data(f"part of {split}", cache.eval_data(split), cache)
            return self._on_features(data, batches=batches)

        def part_of(host: HostSlice) -> tf.data.Dataset:
            # Of all that one host alone would read, for lanes of several hosts begin with other examples.
            whole = plan.eval_data(split, in_part=True)(HostSlice()).take(batches)
            share = plan.recipe.batch_size // host.count
            columns = slice(host.index * share, (host.index + 1) * share)
            return whole.map(lambda batch: {name: values[columns] for name, values in batch.items()})

        with plan.at_once():
            return self._on_images(self._data(f"part of {split}", part_of), batches=batches)

    def _whole(
        self, evaluator: Evaluator, split: str, told: Callable[[int], object] = lambda done: None
    ) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plan
        with plan.at_once():
            data = self._data(f"all of {split}", plan.eval_data(split))
            found = evaluator(data, batches=plan.batches(split), told=told)
        if self._machines == 1:
            return found
        order = eval_order(plan.data.manifest, split, batch_size=plan.recipe.batch_size)
        positions, valid = order.batches_of_positions()
        back = np.argsort(positions[valid])
        return found[0][back], found[1][back]

    def _data(
        self, name: str, make_dataset: Callable[[HostSlice], tf.data.Dataset], cache: FeatureCache | None = None
    ) -> Any:
        """Returns a split's batches for all replicas: made once, as every epoch asks for them again.

        Args:
          name: tells them from others.
          make_dataset: the data of a host, see `feed.distribute`.
          cache: the features that they are made of, or None. Other features, or none, let go of these.
        """
        source, data = self._known.get(name, (None, None))
        if data is None or source is not cache:
            data = distribute(self._strategy, make_dataset)
            self._known[name] = cache, data
        return data
