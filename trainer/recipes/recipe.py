"""Says what a recipe is: frozen dataclasses, validated on construction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from pipeline.augment.config import AugmentConfig
from pipeline.command import UsageError, nearest
from pipeline.view import View
from trainer.models import HeadConfig, backbone_info
from trainer.recipes import schedule
from trainer.recipes.schedule import Duration

SCHEDULES = ("warmup_flat_cooldown", "constant", "step_decay")
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("auto", "float32", "bfloat16")
BATCH_NORM_MODES = ("inference", "train")
METHODS = ("descent", "regression")
SELECTION_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
FROZEN = None


def _choose(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ValueError(f'{field} must be one of {", ".join(allowed)}, got "{value}".{nearest(value, list(allowed))}')


def _at_least(field: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{field} must be {least:g} or more, got {value:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Configures gradient descent.

    Attributes:
      name: sgd, adam or adamw.
      momentum: of SGD.
      weight_decay: of AdamW, decoupled (arXiv 1711.05101).
      clip_norm: largest global norm of the summed gradient; 0 clips nothing.
    """

    name: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _choose("optimizer.name", self.name, OPTIMIZERS)
        _at_least("optimizer.clip_norm", self.clip_norm, 0)
        if self.weight_decay and self.name != "adamw":
            raise ValueError(f'optimizer.weight_decay needs optimizer.name=adamw, got "{self.name}"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Describes a stretch of training with one set of trainable variables and one learning-rate schedule.

    Attributes:
      name: shown in logs and metrics.
      duration: in epochs or steps.
      schedule: warmup_flat_cooldown, constant (at `lr_max`) or step_decay.
      lr_min: first and last learning rate of warmup_flat_cooldown.
      lr_max: the highest learning rate.
      warmup: part of the phase that climbs from lr_min to lr_max.
      flat: part that stays there; the rest cools down.
      decay_factor: step_decay multiplies by this …
      decay_every: … each time this much has passed.
      trainable: (regex, multiplier) pairs: the first regex that matches the start of a variable's path gives the factor
        of its learning rate, None freezes it. Together they must cover every variable of the model.
      augment: whether training images are augmented in this phase.
      batch_norm: inference (moving statistics, right for fine-tuning) or train.
      cached_features: compute the frozen backbone's features once, un-augmented, and train on those.
      method: descent, step by step; or regression: the head, which has no hidden layer then, is solved for on cached
        features, with the l2 that cross-validation finds. That takes a `duration` of 1st and has no learning rate.
      l2: coefficient of 0.5·‖kernel‖² over the trainable kernels, added to the mean loss.
      patience: end the phase when validation has not improved for this many epochs; 0 never does.
    """

    name: str
    duration: Duration
    schedule: str = "warmup_flat_cooldown"
    lr_min: float = 0.0
    lr_max: float
    warmup: Duration = Duration(value=0, unit="%")
    flat: Duration = Duration(value=0, unit="%")
    decay_factor: float = 1.0
    decay_every: Duration = Duration(value=1, unit="ep")
    trainable: tuple[tuple[str, float | None], ...] = ((".*", 1.0),)
    augment: bool = True
    batch_norm: str = "inference"
    cached_features: bool = False
    method: str = "descent"
    l2: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        _choose(f"schedule of phase {self.name}", self.schedule, SCHEDULES)
        _choose(f"batch_norm of phase {self.name}", self.batch_norm, BATCH_NORM_MODES)
        _at_least(f"lr_min of phase {self.name}", self.lr_min, 0)
        _at_least(f"l2 of phase {self.name}", self.l2, 0)
        _at_least(f"patience of phase {self.name}", self.patience, 0)
        if self.lr_max < self.lr_min:
            raise ValueError(f"phase {self.name}: lr_max {self.lr_max:g} is below lr_min {self.lr_min:g}")
        if self.duration.unit == "%":
            raise ValueError(
                f"phase {self.name}: give its duration in epochs (5ep) or steps (2000st), got {self.duration}"
            )
        if not self.trainable:
            raise ValueError(f"phase {self.name}: trainable must name what trains, e.g. [['head/.*', 1.0]]")
        for pattern, multiplier in self.trainable:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f'phase {self.name}: "{pattern}" is not a regular expression: {error}') from error
            if multiplier is not FROZEN:
                _at_least(f'phase {self.name}: multiplier of "{pattern}"', multiplier, 0)
        if self.cached_features and self.batch_norm == "train":
            raise ValueError(f"phase {self.name}: cached features need a frozen backbone, so batch_norm=inference")

        _choose(f"method of phase {self.name}", self.method, METHODS)
        if self.solves:
            self._check_regression()

    def _check_regression(self) -> None:
        if not self.cached_features:
            raise ValueError(f"phase {self.name}: method=regression needs cached_features=true")
        if self.duration not in (Duration.parse("1st"), Duration.parse("0ep"), Duration.parse("0st")):
            raise ValueError(
                f"phase {self.name} is solved for at once: its duration is 1st, or 0ep, which leaves it out, got "
                f"{self.duration}; with method=descent and an lr_max (say 0.003) it takes steps"
            )
        for name in ("lr_min", "lr_max", "l2"):
            if value := getattr(self, name):
                raise ValueError(
                    f"phase {self.name}: {name}={value:g} means nothing where method=regression finds the weights and "
                    "their l2; leave it out, or set method=descent"
                )

    @property
    def solves(self) -> bool:
        """Says whether the phase solves for the head instead of taking steps."""
        return self.method == "regression"

    def steps(self, *, steps_per_epoch: int) -> int:
        return max(1, self.duration.steps(steps_per_epoch=steps_per_epoch))

    def learning_rates(self, *, steps_per_epoch: int) -> np.ndarray:
        """Returns the learning rate of every step, float32 [steps], before the multipliers of `trainable`."""
        steps = self.steps(steps_per_epoch=steps_per_epoch)
        if self.schedule == "constant":
            return np.full(steps, self.lr_max, np.float32)
        if self.schedule == "step_decay":
            every = max(1, self.decay_every.steps(steps_per_epoch=steps_per_epoch, whole=steps))
            return schedule.step_decay(lr_max=self.lr_max, factor=self.decay_factor, every=every, steps=steps)
        warmup = self.warmup.steps(steps_per_epoch=steps_per_epoch, whole=steps)
        flat = self.flat.steps(steps_per_epoch=steps_per_epoch, whole=steps)
        if self.warmup.unit == self.flat.unit == "%" and self.warmup.value + self.flat.value <= 100:
            flat = min(flat, steps - warmup)  # both may have been rounded up
        if warmup + flat > steps:
            raise UsageError(
                f"phase {self.name}: warmup {self.warmup} and flat {self.flat} are {warmup + flat} steps, "
                f"but the phase has {steps}; shorten them or lengthen duration={self.duration}"
            )
        return schedule.warmup_flat_cooldown(
            lr_min=self.lr_min, lr_max=self.lr_max, warmup=warmup, flat=flat, cooldown=steps - warmup - flat
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Holds everything that decides what a training run computes, except the data and the seed.

    Attributes:
      name: of the recipe.
      backbone: a key of `trainer.models.BACKBONES`, or a user's function (`trainer.models.own_backbone`).
      weights: imagenet, none, or the path of a weights file.
      init: a finished run, an export or a model of a registry to start from instead: its backbone and, by label name,
        its head; "" starts from `weights`.
      init_share: how much of that model's weights it starts with; the rest is what it would start with without (shrink
        and perturb, see `trainer.models.inherit`).
      image_size: pixels; the input pipeline delivers image_size × image_size.
      resize: how an image becomes a square, wherever it is seen; augmentation moves what that shows. stretch: the whole
        image, its proportions not kept; pad: the whole image, grey beside it; crop: the largest square in its centre.
      eval_centre: wherever no augmentation moves pixels, in evaluation and by the export, only a square in the centre
        is seen, this fraction of the shorter side (0.875: the usual "resize to 256, crop 224"); 0: as `resize` says.
      resize_to: pixels the model resizes to on the device (small images travel small), or None.
      head: what sits on the backbone.
      batch_size: global, over all replicas.
      fixed_batch: whether the batch is the same on a TPU, as that of a published experiment; else it grows there until
        it fills the cores, see `fitting`.
      accumulate: each replica computes its part of a batch in this many pieces and adds up their gradients, which takes
        less memory.
      augment: training-time augmentation.
      optimizer: gradient descent.
      label_smoothing: 0 to 1 (arXiv 1512.00567).
      class_weights: none, or balanced: an example weighs in inverse proportion to how common its label is in training.
      sam_rho: how far sharpness-aware minimisation looks uphill, which takes two passes a step; 0 is off
        (arXiv 2010.01412, where it is 0.05 for CIFAR-10 and ImageNet). Each replica's piece of a batch looks by itself.
      ema_decay: decay per step of a moving average of the weights, which then is evaluated and exported; 0 is off.
      phases: one after the other.
      precision: auto (bfloat16 on TPU, else float32), float32 or bfloat16.
      steps_per_call: optimizer steps per host call at most: the larger, the less a TPU waits for its host. Fewer where
        they would take more than a second, which a stop would have to wait for.
      selection: which weights are kept: the last ones (last); or (best) the last ones, too, unless the best epoch's are
        better on the same validation images by more than luck, see `trainer.train.selection`.
      selection_metric: what better means for that, and for `patience`: accuracy, balanced_accuracy, macro_f1 or loss.
    """

    name: str
    backbone: str
    weights: str = "imagenet"
    init: str = ""
    init_share: float = 1.0
    image_size: int
    resize: str = "stretch"
    eval_centre: float = 0.0
    resize_to: int | None = None
    head: HeadConfig
    batch_size: int
    fixed_batch: bool = False
    accumulate: int = 1
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    label_smoothing: float = 0.0
    class_weights: str = "none"
    sam_rho: float = 0.0
    ema_decay: float = 0.0
    phases: tuple[Phase, ...]
    precision: str = "auto"
    steps_per_call: int = 20
    selection: str = "best"
    selection_metric: str = "accuracy"

    def __post_init__(self) -> None:
        backbone_info(self.backbone)
        _at_least("image_size", self.image_size, 8)
        View(resize=self.resize, eval_centre=self.eval_centre)  # refuses what cannot be
        _at_least("batch_size", self.batch_size, 1)
        _at_least("steps_per_call", self.steps_per_call, 1)
        _at_least("accumulate", self.accumulate, 1)
        _at_least("sam_rho", self.sam_rho, 0)
        if not 0 < self.init_share <= 1:
            raise ValueError(f"init_share must be above 0 and at most 1, got {self.init_share:g}")
        _choose("class_weights", self.class_weights, ("none", "balanced"))
        _choose("precision", self.precision, PRECISIONS)
        _choose("selection", self.selection, ("best", "last"))
        _choose("selection_metric", self.selection_metric, SELECTION_METRICS)
        if not self.phases:
            raise ValueError("a recipe needs at least one phase")
        if self.head.hidden and (solved := next((phase.name for phase in self.phases if phase.solves), None)):
            raise ValueError(
                f"head.hidden={self.head.hidden}: phase {solved} solves for a head without hidden layers; set its "
                "method to descent"
            )
        for field, value in (("label_smoothing", self.label_smoothing), ("ema_decay", self.ema_decay)):
            if not 0 <= value < 1:
                raise ValueError(f"{field} must be in [0, 1), got {value:g}")

    @property
    def first_weights(self) -> str:
        """Returns what the backbone is built with, before `init`: `weights`, unless nothing would be left of them."""
        return "none" if self.init and self.init_share == 1 else self.weights

    @property
    def view(self) -> View:
        """Returns what is seen of an image."""
        return View(resize=self.resize, eval_centre=self.eval_centre)

    def augmentation(self, on: bool) -> AugmentConfig:
        """Returns what happens to images in a phase that augments, or (`on` is False) in others and in evaluation."""
        return self.augment if on else AugmentConfig(on_accelerator=self.augment.on_accelerator)

    def unpaired(self, replicas: int) -> str | None:
        """Says why a device cannot mix images in pairs, which it does within a piece of a batch; None if it can."""
        piece = -(-self.batch_size // replicas) // self.accumulate
        if not self.augment.mixes or piece % 2 == 0:
            return None
        pairs = 2 * replicas * self.accumulate
        return (
            f"mixup and cutmix mix images in pairs, but batch_size={self.batch_size} gives each of {replicas} replicas "
            f"pieces of {piece}; --set=batch_size={-(-self.batch_size // pairs) * pairs} works"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Holds what a recipe may derive its settings from.

    Attributes:
      num_train: examples in the training split.
      num_classes: number of labels.
      max_side: pixels of the largest side of any image.
    """

    num_train: int
    num_classes: int
    max_side: int
