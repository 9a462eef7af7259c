"""Lowers our own training step to XLA's HLO, without running it: the program that every chip of a slice runs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from pipeline.augment.render import finish
from pipeline.command import CommandError, UsageError
from pipeline.format.manifest import Manifest
from pipeline.resident import Resident
from trainer.models import backbone_info
from trainer.preflight.feeding import batch_spec
from trainer.preflight.flops import channel_fill, training_flops
from trainer.preflight.spmd import SliceStrategy
from trainer.recipes.recipe import Phase, Recipe
from trainer.train.model import build_from_recipe
from trainer.train.optimizer import trainable_groups
from trainer.train.step import TrainStep, evaluation_forward

_ORIGIN = re.compile(r"^HloModule [^\s,]+|, metadata=\{[^}]*\}", re.MULTILINE)
_NAME = re.compile(r"%[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Holds a function, ready to be compiled for another machine.

    Attributes:
      hlo: a serialized HloModuleProto.
      text: the same to read.
      flops: products of `batch` images by our own count (`trainer.preflight.flops`).
      batch: images.
      input_bytes: that the host hands over with them.
    """

    hlo: bytes
    text: str
    flops: int
    batch: int
    input_bytes: int

    @property
    def digest(self) -> str:
        """Returns the sha256 (hex) of what the program computes, the same in any process and on any machine.

        Names are numbered anew, as TensorFlow counts on from what it made before; files and lines are left out.
        """
        numbers: dict[str, str] = {}
        text = _ORIGIN.sub("", self.text)
        text = _NAME.sub(lambda match: numbers.setdefault(match[0], f"%{len(numbers)}"), text)
        return hashlib.sha256(text.encode()).hexdigest()


class Lowering:
    """Lowers the steps of one recipe. The model's weights are random: no operation depends on their values."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        num_classes: int,
        chips: int = 1,
        chips_of_host: int = 1,
        resident: Manifest | None = None,
    ) -> None:
        """Builds the model in the precision that a TPU would use (bfloat16 unless the recipe says float32).

        Args:
          recipe: that trains.
          num_classes: labels.
          chips: of the slice.
          chips_of_host: that one host feeds.
          resident: of the dataset whose images lie on the chips, or None.
        """
        keras.config.set_dtype_policy("float32" if recipe.precision == "float32" else "mixed_bfloat16")
        self._recipe, self._classes = dataclasses.replace(recipe, weights="none"), num_classes
        self._chips_of_host = chips_of_host
        self._strategy = SliceStrategy(chips)
        with self._strategy.scope():
            self._classifier = build_from_recipe(self._recipe, num_classes=num_classes, seed=0)
        self._resident = _blank(resident, recipe.image_size) if resident else None

    def train_step(self, phase: Phase, *, batch: int, steps_per_epoch: int) -> Program:
        """Lowers one step of `phase` on `batch` images a chip: forward, backward, sums over the chips, update.

        Raises:
          CommandError: an operation that XLA cannot compile; names it.
          UsageError: this TensorFlow has no XLA for CPUs; or see `batch_spec`.
        """
        step = self._step(phase, steps_per_epoch)
        spec = self._batch_spec(phase, batch)

        def run(number: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
            return self._strategy.run(step.replica_step, args=(dict(zip(spec, tensors, strict=True)), number))

        return self._program(run, {"number": tf.TensorSpec([], tf.int32), **spec}, batch, self._flops(phase))

    def forward(self, *, batch: int) -> Program:
        """Lowers evaluation (and the computing of features to cache) on `batch` images: forward only."""
        forward = evaluation_forward(self._classifier)
        plain, mode = self._recipe.augmentation(False), backbone_info(self._recipe.backbone).preprocess
        spec = self._batch_spec(None, batch)

        def evaluate(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
            return forward(finish(batch, plain, mode, self._resident))

        def run(*tensors: tf.Tensor) -> tf.Tensor:
            return self._strategy.run(evaluate, args=(dict(zip(spec, tensors, strict=True)),))

        return self._program(run, spec, batch, self._flops(None))

    def channel_fill(self, unit: int) -> float:
        """Measures `flops.channel_fill` of backbone and head."""
        return channel_fill([self._classifier.backbone, self._classifier.head], unit)

    def _batch_spec(self, phase: Phase | None, batch: int) -> dict[str, tf.TensorSpec]:
        if not phase or not phase.cached_features:
            return batch_spec(
                self._recipe,
                phase,
                batch=batch,
                classes=self._classes,
                chips_of_host=self._chips_of_host,
                resident=self._resident.source if self._resident else None,
            )
        features = self._classifier.backbone.output.shape[1:]
        return {
            "image": tf.TensorSpec([batch, *features]),
            "label": tf.TensorSpec([batch], tf.int32),
            "weight": tf.TensorSpec([batch]),
        }

    @functools.cache  # noqa: B019 (a Lowering lives as long as the command)
    def _step(self, phase: Phase, steps_per_epoch: int) -> TrainStep:
        with self._strategy.scope():
            return TrainStep(
                classifier=self._classifier,
                recipe=self._recipe,
                phase=phase,
                rates=phase.learning_rates(steps_per_epoch=steps_per_epoch),
                class_weights=np.ones(self._classes, np.float32),
                strategy=self._strategy,
                seed=0,
                resident=self._resident,
            )

    def _flops(self, phase: Phase | None) -> int:
        """Counts the operations of one image in a step of `phase`, or in the forward pass if None."""
        groups = trainable_groups(self._classifier, phase) if phase else {}
        trained = {variable.path for group in groups.values() for variable in group}
        passes = 2 if phase and self._recipe.sam_rho else 1
        backbone, behind = training_flops(self._classifier.backbone, trained, passes=passes)
        cached = phase is not None and phase.cached_features
        head, _ = training_flops(self._classifier.head, trained, input_trains=behind and not cached, passes=passes)
        return head if cached else backbone + head

    def _program(
        self, run: Callable[..., tf.Tensor], specs: Mapping[str, tf.TensorSpec], batch: int, flops: int
    ) -> Program:
        function = tf.function(run, jit_compile=True, autograph=False)
        try:
            lowered = function.experimental_get_compiler_ir(*specs.values())
            hlo = lowered(stage="hlo_serialized", platform_name="CPU")
            text = lowered(stage="hlo", platform_name="CPU")
        except (tf.errors.OpError, ValueError) as error:
            if "transfer manager for platform Host" in str(error):
                raise UsageError(
                    "preflight lowers the step with XLA for CPUs, and tensorflow-tpu has none; run it where plain "
                    "tensorflow is installed, it needs no TPU: pip install '.[cpu,preflight]'"
                ) from error
            raise CommandError(
                f"the step cannot be compiled for a TPU: {unsupported_operations(str(error))}; "
                "operations that XLA does not know must move to the input pipeline"
            ) from error
        handed = sum(spec.shape.num_elements() * spec.dtype.size for spec in specs.values())
        return Program(hlo=hlo, text=text, flops=flops * batch, batch=batch, input_bytes=handed)


def _blank(manifest: Manifest, side: int) -> Resident:
    """Makes as many images as a dataset has, all black, which are rendered at `side` × `side` pixels."""
    source = (manifest.max_height, manifest.max_width)
    images = sum(manifest.num_examples(split) for split in manifest.splits)
    pixels = tf.Variable(tf.zeros([images, math.prod(source) * 3], tf.uint8), trainable=False)
    return Resident(pixels=pixels, source=source, height=side, width=side)


def unsupported_operations(message: str) -> str:
    """Lists the operations that TensorFlow names in its refusal to compile, else the message's first line."""
    names = sorted(set(re.findall(r"(\w+) \(No registered", message)))
    return ", ".join(names) if names else next(iter(message.strip().splitlines()), "no reason given")[:300]
