"""Compiles the training step: forward, masked loss, gradients, update; one `tf.function` does n steps a host call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.render import finish
from pipeline.resident import Resident
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.recipes.recipe import Phase, Recipe
from trainer.train.model import dropout_seed
from trainer.train.optimizer import TableSchedule, make_optimizer, trainable_groups

Batch = Mapping[str, tf.Tensor]
Forward = Callable[[tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, smoothing: float) -> tf.Tensor:
    """Computes softmax cross-entropy, float32 [B]; `labels`: int [B] or a distribution, [B, C]; `logits`: [B, C]."""
    classes = logits.shape[-1]
    target = tf.one_hot(labels, classes) if labels.dtype.is_integer else labels
    target = target * (1 - smoothing) + smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(target, tf.cast(logits, tf.float32))


class TrainStep:
    """Trains one phase with what is compiled for it: optimizers, moving average, and a function that runs n steps.

    Attributes:
      optimizers: one for each learning-rate multiplier.
      average: moving averages, parallel to `averaged`; empty where the recipe has none.
      averaged: the variables that `average` follows.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        recipe: Recipe,
        phase: Phase,
        rates: np.ndarray,
        class_weights: np.ndarray,
        strategy: tf.distribute.Strategy,
        seed: int,
        resident: Resident | None = None,
    ) -> None:
        """Creates the variables; call within `strategy.scope()`.

        Args:
          classifier: the model.
          recipe: its batch size, optimizer, smoothing and so on.
          phase: what trains, and how.
          rates: float32 [steps of the phase], the learning rates.
          class_weights: float32 [C], factors of the examples' losses by their label.
          strategy: the one in scope.
          seed: of dropout.
          resident: the images, where they lie on the devices.
        """
        self._strategy, self._recipe, self._phase, self._seed = strategy, recipe, phase, seed
        self._class_weights = class_weights
        self._preprocess = backbone_info(recipe.backbone).preprocess
        self._augment, self._resident = recipe.augmentation(phase.augment), resident
        self._forward = training_forward(classifier, phase)
        groups = trainable_groups(classifier, phase)
        self._groups = list(groups.values())
        self._tables = {multiplier: TableSchedule(rates * multiplier) for multiplier in groups}
        self.optimizers = [make_optimizer(recipe.optimizer, table) for table in self._tables.values()]
        for optimizer, variables in zip(self.optimizers, self._groups, strict=True):
            optimizer.build(variables)
        decay = 0.0 if phase.cached_features else recipe.ema_decay
        self._decay = decay
        self.averaged = [v.value for variables in self._groups for v in variables] if decay else []
        # Without an aggregation every replica keeps its own, all equal, as the weights are; with "only the first" a TPU
        # would send each average to all others in every step.
        self.average = [tf.Variable(v, trainable=False) for v in self.averaged]
        self._statistics = []
        if phase.batch_norm == "train" and strategy.num_replicas_in_sync > 1:
            state = classifier.backbone.non_trainable_variables
            self._statistics = [v.value for v in state if v.path.endswith(("/moving_mean", "/moving_variance"))]
        self._run = tf.function(self._steps, reduce_retracing=True)
        self._swap = tf.function(self._swap_weights)
        self._keep = tf.function(self._keep_weights)

    def restart(self, rates: np.ndarray) -> None:
        """Forgets the training so far, except in the model's own variables, without compiling anew.

        Args:
          rates: float32, as many as on construction: the learning rates from now on.
        """
        for multiplier, table in self._tables.items():
            table.assign(rates * multiplier)
        for optimizer in self.optimizers:
            for variable in optimizer.variables:  # every slot of SGD, Adam and AdamW starts at zero
                variable.assign(tf.zeros_like(variable.value))
        for average, variable in zip(self.average, self.averaged, strict=True):
            average.assign(variable)

    def __call__(self, batches: Iterator[Batch], *, first_step: int, steps: int) -> np.ndarray:
        """Trains on the next `steps` batches.

        Args:
          batches: a distributed iterator.
          first_step: number of the first step within the phase; seeds dropout.
          steps: how many.

        Returns:
          float32 [steps, 3]: sums of loss, correct predictions and weight of every step, so that they do not depend on
          how many are done at a time.
        """
        return self._run(batches, tf.constant(first_step), tf.constant(steps)).numpy()

    def _steps(self, batches: Iterator[Batch], first_step: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        sums = tf.TensorArray(tf.float32, size=steps, element_shape=(3,))
        for i in tf.range(steps):
            per_replica = self._strategy.run(self.replica_step, args=(next(batches), first_step + i))
            sums = sums.write(i, self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None))
        return sums.stack()

    def replica_step(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        """Trains one replica on its part of a batch; returns sums of loss, hits and weight, float32 [3]."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in([self._seed, 0], step)
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
        gradients, sums = self._gradients(batch, seed)
        self._share_statistics()
        gradients = self._clip(self._with_penalty(gradients))
        for optimizer, group in zip(self.optimizers, self._groups, strict=True):
            own, gradients = gradients[: len(group)], gradients[len(group) :]
            optimizer.apply(own, group)  # sums over the replicas
        self._update_average()
        return sums

    def _gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Computes the gradients of a replica's batch and its sums of loss, hits and weight, piece by piece."""
        pieces = self._recipe.accumulate
        size = batch["weight"].shape[0] // pieces
        gradients: list[tf.Tensor] = []
        sums = tf.zeros(3)
        for piece in range(pieces):
            part = {name: tensor[piece * size : (piece + 1) * size] for name, tensor in batch.items()}
            # One after the other, or all pieces would lie in memory at once.
            with tf.control_dependencies(gradients):
                part = {name: tf.identity(tensor) for name, tensor in part.items()}
                more, more_sums = self._piece(part, tf.random.experimental.stateless_fold_in(seed, piece))
            gradients = [a + b for a, b in zip(gradients, more, strict=True)] if gradients else more
            sums += more_sums
        return gradients, sums

    def _piece(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        gradients, sums = self._loss_gradients(batch, seed)
        if self._recipe.sam_rho:
            # Keras' way to call a model with other weights; batch norm's statistics stay those of the first pass.
            with keras.StatelessScope(self._uphill(gradients)):
                gradients, _ = self._loss_gradients(batch, seed)
        return gradients, sums

    def _uphill(self, gradients: Sequence[tf.Tensor]) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Returns the weights `sam_rho` further along the gradient: sharpness-aware minimisation (arXiv 2010.01412).

        The gradient is that of the piece alone: no exchange between replicas, and the paper's m-sharpness, where m is
        the size of a piece.
        """
        variables = [v for group in self._groups for v in group]
        scale = self._recipe.sam_rho / (tf.linalg.global_norm(gradients) + 1e-12)
        return [(v, v.value + gradient * scale) for v, gradient in zip(variables, gradients, strict=True)]

    def _loss_gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        variables = [v.value for group in self._groups for v in group]
        labels = batch["label"]
        with tf.GradientTape(watch_accessed_variables=False) as tape, dropout_seed(seed):
            tape.watch(variables)
            logits = self._forward(finish(batch, self._augment, self._preprocess, self._resident))
            per_example = cross_entropy(labels, logits, smoothing=self._recipe.label_smoothing)
            classes = tf.one_hot(labels, logits.shape[-1]) if labels.dtype.is_integer else labels
            factor = batch["weight"] * tf.linalg.matvec(classes, self._class_weights)
            # Divided by the full batch even where the last one is padded: every example then weighs the same.
            objective = tf.reduce_sum(per_example * factor) / self._recipe.batch_size
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1), tf.argmax(classes, axis=-1)), tf.float32)
        sums = [tf.reduce_sum(value * batch["weight"]) for value in (per_example, hits)]
        return tape.gradient(objective, variables), tf.stack([*sums, tf.reduce_sum(batch["weight"])])

    def _share_statistics(self) -> None:
        """Gives all replicas the mean of their moving statistics of batch norm, of which only one's are saved."""
        if self._statistics:
            context = tf.distribute.get_replica_context()
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in self._statistics])
            for variable, mean in zip(self._statistics, means, strict=True):
                variable.assign(mean)

    def _with_penalty(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Adds the L2 penalty's gradient, to every replica its share of it: gradients are summed over replicas."""
        variables = [v for group in self._groups for v in group]
        share = self._phase.l2 / self._strategy.num_replicas_in_sync
        return [
            gradient + share * v.value if share and v.path.endswith("kernel") else gradient
            for v, gradient in zip(variables, gradients, strict=True)
        ]

    def _clip(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Clips by the global norm of the gradient summed over replicas (Keras would clip each replica's part)."""
        if not self._recipe.optimizer.clip_norm:
            return list(gradients)
        summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        scale = tf.minimum(1.0, self._recipe.optimizer.clip_norm / (tf.linalg.global_norm(summed) + 1e-12))
        return [gradient * scale for gradient in gradients]

    def _update_average(self) -> None:
        if not self.average:
            return
        step = tf.cast(self.optimizers[0].iterations.value, tf.float32)
        decay = tf.minimum(self._decay, (1 + step) / (10 + step))  # follows closely at first, as TF's own EMA does
        for average, variable in zip(self.average, self.averaged, strict=True):
            average.assign(average * decay + variable * (1 - decay))

    def _swap_weights(self) -> None:
        self._strategy.run(self._swap_on_replica)

    def _keep_weights(self) -> None:
        self._strategy.run(self._keep_on_replica)

    def _keep_on_replica(self) -> None:
        for average, variable in zip(self.average, self.averaged, strict=True):
            variable.assign(average)

    def _swap_on_replica(self) -> None:
        for average, variable in zip(self.average, self.averaged, strict=True):
            weight = tf.identity(variable)
            variable.assign(average)
            average.assign(weight)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Puts the moving averages (if the recipe has them) into the model for the length of the block."""
        if not self.average:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep_average(self) -> None:
        """Puts the moving averages (if the recipe has them) into the model for good; once more changes nothing."""
        if self.average:
            self._keep()


def evaluation_forward(classifier: Classifier) -> Forward:
    """Returns the function from images to log-probabilities, float32 [B, C], as evaluation computes them."""
    head, backbone = classifier.head, classifier.lean_backbone
    return lambda images: tf.nn.log_softmax(head(backbone(images, training=False), training=False))


def training_forward(classifier: Classifier, phase: Phase) -> Forward:
    """Returns the function from images (or cached features) to logits, as a phase trains it."""
    if phase.cached_features:
        return lambda features: classifier.head(features, training=True)
    if phase.batch_norm == "train":
        return lambda images: classifier.head(classifier.backbone(images, training=True), training=True)
    backbone = classifier.lean_backbone
    return lambda images: classifier.head(backbone(images, training=False), training=True)
