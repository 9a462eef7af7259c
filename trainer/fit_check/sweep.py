"""Tries learning rates on a sample of the training split, each from the same first weights, nothing regularised.

One compiled training step serves the range test and every rate; weights and optimizer state are put back in between.
"""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from pipeline import dataset
from pipeline.augment.config import AugmentConfig
from pipeline.batching import HostSlice
from pipeline.command import CommandError, DataError
from pipeline.format.manifest import TRAIN, DatasetVersion
from trainer.models import backbone_info
from trainer.models.keras_private import all_layers
from trainer.recipes.recipe import Recipe
from trainer.train.evaluation import Evaluator
from trainer.train.feed import distribute, feature_batches
from trainer.train.model import first_model
from trainer.train.step import TrainStep

LOWEST, HIGHEST = 1e-6, 10.0  # of the range test
_RANGE_STEPS = 100  # at least: about 14 to a factor of ten
_STEPS_A_CALL = 10
_SMOOTHING_STEPS = 3.0
_BLOWN_UP = 2.0  # times the first loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """Records a training at one constant learning rate.

    Attributes:
      rate: the learning rate.
      losses: mean cross-entropy in nats of every finished epoch, measured while it trained.
      accuracies: likewise.
      diverged: whether the loss ceased to be a finite number in the epoch after these.
    """

    rate: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    diverged: bool


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Records learning rates that grow from step to step and the loss of each step, until it blew up.

    Attributes:
      rates: float32 [n].
      losses: float32 [n].
    """

    rates: np.ndarray
    losses: np.ndarray

    def smoothed(self) -> np.ndarray:
        """Averages the losses with their neighbours (Gaussian), so that no step lags behind its rate; float64 [n]."""
        steps = np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((steps[:, None] - steps) / _SMOOTHING_STEPS) ** 2)
        return weights @ self.losses / weights.sum(axis=1)

    def _lowest(self) -> int:
        smoothed = self.smoothed()
        # Only up to the blow-up: a network that it killed may return to a lower loss than it had learned.
        blown_up = np.append(smoothed > _BLOWN_UP * smoothed[0], True)
        return int(smoothed[: blown_up.argmax()].argmin())

    def lowest(self) -> float:
        """Returns the rate at which the loss was lowest: above it training gets worse."""
        return float(self.rates[self._lowest()])

    def steepest(self) -> float:
        """Returns the rate at which the loss fell fastest on its way to the lowest."""
        falling = self.smoothed()[: self._lowest() + 1]
        return float(self.rates[np.diff(falling).argmin()]) if len(falling) > 1 else self.lowest()


def unregularised(recipe: Recipe, phase: int) -> Recipe:
    """Returns the recipe with that phase alone and, but for `sam_rho`, nothing that keeps it from fitting its data."""
    return dataclasses.replace(
        recipe,
        augment=AugmentConfig(),
        head=dataclasses.replace(recipe.head, dropout=0.0),
        optimizer=dataclasses.replace(recipe.optimizer, weight_decay=0.0),
        label_smoothing=0.0,
        class_weights="none",
        ema_decay=0.0,
        phases=(dataclasses.replace(recipe.phases[phase], augment=False, l2=0.0),),
    )


def read_sample(data: DatasetVersion, recipe: Recipe, *, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads up to `count` training images, float32 [n, H, W, 3] preprocessed, and their labels, int32 [n].

    Raises:
      DataError: they all have one label.
    """
    batches = dataset.train_dataset(
        data,
        TRAIN,
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=backbone_info(recipe.backbone).preprocess,
        augment=AugmentConfig(),
        seed=seed,
        epoch=0,
        view=recipe.view,
        global_batch_size=1,  # nothing to pad, nothing decoded in vain
        cache="none",
    )
    examples = list(batches.take(count).as_numpy_iterator())
    images, labels = (np.concatenate([example[name] for example in examples]) for name in ("image", "label"))
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"the sample of {len(labels)} images has one label only ({data.manifest.labels[labels[0]]}); "
            "give a larger --sample"
        )
    return images, labels


class Sweep:
    """Holds a model, a sample and a training step that can start over."""

    def __init__(
        self, recipe: Recipe, data: DatasetVersion, strategy: tf.distribute.Strategy, *, sample: int, epochs: int,
        seed: int,
    ) -> None:  # fmt: skip
        """Builds the model and reads the sample.

        Args:
          recipe: of one phase, see `unregularised`.
          data: its training split is sampled.
          strategy: what to train on.
          sample: number of images.
          epochs: the longest trial; 0 for 20, or as many as make 100 steps.
          seed: of the model's first weights, the sample and its order.

        Raises:
          DataError: see `read_sample`.
          UsageError: the recipe does not fit the model, see `TrainStep`.
        """
        self._recipe, self._strategy, self._seed = recipe, strategy, seed
        (phase,) = recipe.phases
        self._inputs, self.labels = read_sample(data, recipe, count=sample, seed=seed)
        self._per_epoch = math.ceil(len(self.labels) / recipe.batch_size)
        self.epochs = epochs or max(20, math.ceil(100 / self._per_epoch))
        self._range_steps = max(_RANGE_STEPS, self._per_epoch)
        self._table_size = max(self._range_steps, self.epochs * self._per_epoch)
        classifier = first_model(recipe, labels=data.manifest.labels, seed=seed, strategy=strategy)
        for layer in all_layers(classifier.backbone):
            if isinstance(layer, keras.layers.Dropout):  # the head's is off in the recipe
                layer.rate = 0.0
        with strategy.scope():
            self._step = TrainStep(
                classifier=classifier,
                recipe=recipe,
                phase=phase,
                rates=self._table(np.zeros(1)),
                class_weights=np.ones(data.manifest.num_classes, np.float32),
                strategy=strategy,
                seed=seed,
            )
        if phase.cached_features:
            backbone = classifier.lean_backbone
            features = Evaluator(strategy, lambda images: backbone(images, training=False))
            order = np.arange(len(self.labels))
            batches = distribute(strategy, lambda host: self._batches(order, host))
            self._inputs, _ = features(batches, batches=self._per_epoch)
        self._variables = [*classifier.backbone.variables, *classifier.head.variables]
        self._first_values = [variable.numpy() for variable in self._variables]

    def range_test(self) -> RangeTest:
        """Runs Smith's range test (arXiv 1506.01186), the rate growing exponentially, until the loss blows up.

        It has 100 steps, or as many as one pass over the sample takes, if these are more.

        Raises:
          CommandError: the loss is no finite number even at the first steps.
        """
        rates = np.geomspace(LOWEST, HIGHEST, self._range_steps, dtype=np.float32)
        self._restart(rates)
        passes = math.ceil(self._range_steps * self._recipe.batch_size / len(self.labels))
        batches = self._iterate(np.concatenate([self._order(epoch) for epoch in range(passes)]))
        losses = np.zeros(0, np.float32)
        while len(losses) < len(rates):
            count = min(_STEPS_A_CALL, len(rates) - len(losses))
            sums = self._step(batches, first_step=len(losses), steps=count)
            new = sums[:, 0] / np.maximum(sums[:, 2], 1)
            losses = np.append(losses, new)
            if not new.mean() <= 2 * _BLOWN_UP * losses[0]:  # or no number
                break
        finite = int(np.append(np.isfinite(losses), False).argmin())
        if not finite:
            raise CommandError(
                f"the loss is {losses[0]} before anything was trained: look at the weights (--weights) and at the "
                "images (python -m pipeline.preview)"
            )
        return RangeTest(rates[:finite], losses[:finite])

    def trial(self, rate: float, *, fits_at: float) -> Trial:
        """Trains from the first weights until an epoch reaches accuracy `fits_at`, diverges or is the last."""
        self._restart(np.full(1, rate))
        losses: list[float] = []
        accuracies: list[float] = []
        for epoch in range(self.epochs):
            batches = self._iterate(self._order(epoch))
            sums = self._step(batches, first_step=epoch * self._per_epoch, steps=self._per_epoch).sum(axis=0)
            if not np.isfinite(sums).all():
                return Trial(rate=rate, losses=tuple(losses), accuracies=tuple(accuracies), diverged=True)
            losses.append(float(sums[0] / sums[2]))
            accuracies.append(float(sums[1] / sums[2]))
            if accuracies[-1] >= fits_at:
                break
        return Trial(rate=rate, losses=tuple(losses), accuracies=tuple(accuracies), diverged=False)

    def _restart(self, rates: np.ndarray) -> None:
        for variable, value in zip(self._variables, self._first_values, strict=True):
            variable.assign(value)
        self._step.restart(self._table(rates))

    def _table(self, rates: np.ndarray) -> np.ndarray:
        """Extends `rates` to the longest stretch of training, float32: the last rate goes on."""
        return np.pad(rates, (0, self._table_size - len(rates)), mode="edge").astype(np.float32)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self.labels))

    def _batches(self, order: np.ndarray, host: HostSlice) -> tf.data.Dataset:
        return feature_batches(
            self._inputs, self.labels, order=order, batch_size=self._recipe.batch_size, skip_batches=0, host=host
        )

    def _iterate(self, order: np.ndarray) -> tf.distribute.DistributedIterator:
        return iter(distribute(self._strategy, lambda host: self._batches(order, host)))
