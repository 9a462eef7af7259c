"""The training step: forward, masked loss, gradients, update; one `tf.function` does n steps a host call."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.cli import UsageError
from pipeline.render import finish
from trainer.config import OptimizerConfig, Phase, Recipe
from trainer.dropout import dropout_seed
from trainer.models import Classifier, backbone_info

Batch = Mapping[str, tf.Tensor]
Forward = Callable[[tf.Tensor], tf.Tensor]


class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate looked up by step: what is logged and what the optimizer uses are one array."""

    def __init__(self, table: np.ndarray) -> None:
        """`table`: float32 [steps]."""
        self._table = tf.Variable(table, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def assign(self, table: np.ndarray) -> None:
        """Takes another table of the same length; what is compiled stays so."""
        self._table.assign(table)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._table, tf.minimum(tf.cast(step, tf.int32), self._table.shape[0] - 1))

    def get_config(self) -> dict[str, object]:
        return {"table": self._table.numpy().tolist()}


def trainable_groups(classifier: Classifier, phase: Phase) -> dict[float, list[keras.Variable]]:
    """Groups the variables that a phase trains by their learning-rate multiplier.

    Raises:
      UsageError: a variable that no pattern covers, or a pattern that covers none.
    """
    groups: dict[float, list[keras.Variable]] = {}
    unused = {pattern for pattern, _ in phase.trainable}
    for variable in [*classifier.backbone.trainable_variables, *classifier.head.trainable_variables]:
        for pattern, multiplier in phase.trainable:
            if re.match(pattern, variable.path):
                unused.discard(pattern)
                if multiplier:
                    groups.setdefault(multiplier, []).append(variable)
                break
        else:
            raise UsageError(
                f'phase {phase.name}: no pattern of trainable covers "{variable.path}"; '
                'add one, e.g. [".*", null] at the end to freeze the rest'
            )
    if unused:
        raise UsageError(f'phase {phase.name}: pattern "{min(unused)}" of trainable matches no variable')
    if not groups:
        raise UsageError(f"phase {phase.name}: trainable freezes every variable; nothing would train")
    return groups


def make_optimizer(config: OptimizerConfig, rates: TableSchedule) -> keras.optimizers.Optimizer:
    """A Keras optimizer of the recipe's kind."""
    if config.name == "sgd":
        return keras.optimizers.SGD(rates, momentum=config.momentum)
    if config.name == "adam":
        return keras.optimizers.Adam(rates)
    return keras.optimizers.AdamW(rates, weight_decay=config.weight_decay)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, smoothing: float) -> tf.Tensor:
    """Softmax cross-entropy, float32 [B]; `labels` are int [B] or a distribution, float [B, C]; `logits` [B, C]."""
    classes = logits.shape[-1]
    target = tf.one_hot(labels, classes) if labels.dtype.is_integer else labels
    target = target * (1 - smoothing) + smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(target, tf.cast(logits, tf.float32))


class TrainStep:
    """One phase's compiled training: optimizers, moving average, and the function that runs n steps.

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
        """
        self._strategy, self._recipe, self._phase, self._seed = strategy, recipe, phase, seed
        self._class_weights = class_weights
        self._preprocess = backbone_info(recipe.backbone).preprocess
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
        self.average = [
            tf.Variable(v, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
            for v in self.averaged
        ]
        self._run = tf.function(self._steps, reduce_retracing=True)

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

    def __call__(self, batches: Iterator[Batch], *, first_step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Trains on the next `steps` batches.

        Args:
          batches: a distributed iterator.
          first_step: number of the first step within the phase; seeds dropout.
          steps: how many.

        Returns:
          float32 [steps]: the mean loss of every step; float32 [3]: sums of loss, correct predictions and weight.
        """
        losses, sums = self._run(batches, tf.constant(first_step), tf.constant(steps))
        return losses.numpy(), sums.numpy()

    def _steps(self, batches: Iterator[Batch], first_step: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses = tf.TensorArray(tf.float32, size=steps, element_shape=())
        total = tf.zeros(3)
        for i in tf.range(steps):
            per_replica = self._strategy.run(self._step, args=(next(batches), first_step + i))
            sums = self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
            losses = losses.write(i, sums[0] / tf.maximum(sums[2], 1.0))
            total += sums
        return losses.stack(), total

    def _step(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in([self._seed, 0], step)
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
        gradients, sums = self._gradients(batch, seed)
        gradients = self._clip(gradients)
        for optimizer, group in zip(self.optimizers, self._groups, strict=True):
            own, gradients = gradients[: len(group)], gradients[len(group) :]
            optimizer.apply(own, group)  # sums over the replicas
        self._update_average()
        return sums

    def _gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of a replica's batch and its sums of loss, hits and weight, computed piece by piece."""
        pieces = self._recipe.accumulate
        size = batch["image"].shape[0] // pieces
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
        variables = [v.value for group in self._groups for v in group]
        labels = batch["label"]
        with tf.GradientTape(watch_accessed_variables=False) as tape, dropout_seed(seed):
            tape.watch(variables)
            logits = self._forward(finish(batch, self._recipe.augment, self._preprocess))
            per_example = cross_entropy(labels, logits, smoothing=self._recipe.label_smoothing)
            classes = tf.one_hot(labels, logits.shape[-1]) if labels.dtype.is_integer else labels
            factor = batch["weight"] * tf.linalg.matvec(classes, self._class_weights)
            # Divided by the full batch even where the last one is padded: every example then weighs the same.
            objective = tf.reduce_sum(per_example * factor) / self._recipe.batch_size + self._penalty()
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1), tf.argmax(classes, axis=-1)), tf.float32)
        sums = [tf.reduce_sum(value * batch["weight"]) for value in (per_example, hits)]
        return tape.gradient(objective, variables), tf.stack([*sums, tf.reduce_sum(batch["weight"])])

    def _penalty(self) -> tf.Tensor:
        if not self._phase.l2:
            return tf.zeros(())
        kernels = [v.value for group in self._groups for v in group if v.path.endswith("kernel")]
        # Each piece adds its share, because gradients are summed over pieces and replicas.
        pieces = self._strategy.num_replicas_in_sync * self._recipe.accumulate
        return self._phase.l2 / pieces * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])

    def _clip(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Scales by the global norm of the gradient summed over replicas (Keras would clip each replica's part)."""
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

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model holds the moving averages (if the recipe has them)."""
        raw = [variable.numpy() for variable in self.averaged]
        for variable, average in zip(self.averaged, self.average, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self.averaged, raw, strict=True):
                variable.assign(value)


def training_forward(classifier: Classifier, phase: Phase) -> Forward:
    """images or cached features → logits, as a phase trains them."""
    if phase.cached_features:
        return lambda features: classifier.head(features, training=True)
    in_train_mode = phase.batch_norm == "train"
    return lambda images: classifier.head(classifier.backbone(images, training=in_train_mode), training=True)
