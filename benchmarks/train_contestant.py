"""Runs one contestant of benchmarks.train: trains, prints a line a round, and waits for its next turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from pipeline.command import TryAgainError
from pipeline.format.manifest import DatasetVersion, open_dataset

STEPS_PER_CALL = 20
MARK = "@@ "  # a line that is meant for the benchmark

TUNED: dict[str, Any] = {"steps_per_execution": STEPS_PER_CALL, "jit_compile": False}
FIT: dict[str, tuple[str, dict[str, Any]]] = {
    "keras fit": ("keras", {}),
    "keras fit, tuned": ("keras", TUNED),
    "tf_keras fit": ("tf_keras", {}),
    "tf_keras fit, tuned": ("tf_keras", TUNED),
}
OURS, CACHED, FROZEN, SHARE = "ours", "cached features", "frozen backbone", "share"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
    """Says what a contestant trains, in plain values, to be handed on as JSON.

    Attributes:
      contestant: OURS, CACHED, FROZEN, SHARE or a key of FIT.
      model: BACKBONE@PIXELS.
      data: dataset root, or one version directory.
      run: directory for whatever it writes.
      batch_size: images a step.
      images: of the training split; 0 for all.
      share_seconds: how long SHARE runs.
    """

    contestant: str
    model: str
    data: str
    run: str
    batch_size: int
    images: int
    share_seconds: int

    def open(self) -> DatasetVersion:
        """Opens the dataset with its first training images only."""
        return first_images(self.data, self.images)


class Laps:
    """Times rounds: tells the benchmark how long one took, and waits until it is this process's turn again."""

    def __init__(self) -> None:
        self._start = time.monotonic(), time.process_time()

    def lap(self) -> bool:
        """Ends a round, prints its seconds, and says whether there is another."""
        wall, processor = time.monotonic() - self._start[0], time.process_time() - self._start[1]
        print(MARK + json.dumps({"wall": wall, "processor": processor}), flush=True)
        more = sys.stdin.readline().strip() == "go"
        self._start = time.monotonic(), time.process_time()
        return more


def first_images(root: str, images: int) -> DatasetVersion:
    """Opens the dataset with as many shards only of its training split as hold about `images`; 0: all."""
    data = open_dataset(root)
    if not images:
        return data
    shards, found = [], 0
    for shard in data.manifest.shards("train"):
        if found < images:
            shards.append(shard)
            found += shard.examples
    splits = {**data.manifest.splits, "train": tuple(shards)}
    return dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits=splits))


def _without_validation(data: DatasetVersion) -> DatasetVersion:
    splits = {"train": data.manifest.splits["train"]}
    return dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits=splits))


def _recipe(contest: Contest, *, head_only: bool = False, cached: bool = False) -> Any:
    from trainer.models import HeadConfig
    from trainer.recipes.recipe import OptimizerConfig, Phase, Recipe
    from trainer.recipes.schedule import Duration

    backbone, side = contest.model.split("@")
    own = backbone == "cifar10_cnn"
    return Recipe(
        name="benchmark",
        backbone=backbone,
        weights="none" if own else "imagenet",
        image_size=int(side),
        head=HeadConfig(pooling="flatten", hidden=512) if own else HeadConfig(pooling="avg"),
        batch_size=contest.batch_size,
        optimizer=OptimizerConfig(name="adam"),
        steps_per_call=STEPS_PER_CALL,
        phases=(
            Phase(
                name="all",
                duration=Duration.parse("1000ep"),
                schedule="constant",
                lr_max=1e-4,
                augment=False,
                trainable=(("head/", 1.0), ("backbone/", None)) if head_only else ((".*", 1.0),),
                cached_features=cached,
            ),
        ),
    )


def _plan(recipe: Any, data: DatasetVersion, run: pathlib.Path, stop_requested: Callable[[], bool]) -> Any:
    import numpy as np

    from trainer.train.plan import Plan

    ones = np.ones(data.manifest.num_classes, np.float32)
    return Plan(recipe=recipe, data=data, seed=0, run=run, class_weights=ones, stop_requested=stop_requested)


def _train(recipe: Any, data: DatasetVersion, run: pathlib.Path, stop_requested: Callable[[], bool]) -> None:
    """Runs the real Trainer until `stop_requested`, which it asks after every host call."""
    from trainer.devices.strategy import make_strategy
    from trainer.train.loop import Trainer
    from trainer.train.model import build_from_recipe

    strategy = make_strategy("")
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0)
    trainer = Trainer(_plan(recipe, data, run, stop_requested), classifier, strategy)
    with contextlib.suppress(TryAgainError):
        trainer.train()


def _calls_per_epoch(recipe: Any, data: DatasetVersion) -> int:
    """Counts how often the loop asks `stop_requested` in an epoch: after every host call."""
    return -(-data.manifest.num_examples("train") // (recipe.batch_size * STEPS_PER_CALL))


def _ours(contest: Contest, recipe: Any) -> None:
    """Runs the real Trainer; a round is an epoch."""
    data = _without_validation(contest.open())
    calls_per_epoch = _calls_per_epoch(recipe, data)
    laps, calls = Laps(), 0

    def stop_requested() -> bool:
        nonlocal calls
        calls += 1
        return calls % calls_per_epoch == 0 and not laps.lap()

    _train(recipe, data, pathlib.Path(contest.run), stop_requested)


def _fit(contest: Contest, framework: str, options: dict[str, Any]) -> None:
    """Runs `compile` and `fit`, one epoch a round."""
    import tensorflow as tf

    from pipeline.batching import HostSlice
    from trainer.train.model import build_from_recipe

    recipe, data = _recipe(contest), _without_validation(contest.open())
    classifier = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0)
    if framework == "keras":
        import keras as library

        backbone, head = classifier.backbone, classifier.head
    else:
        import tf_keras as library

        backbone, head = (in_tf_keras(part) for part in (classifier.backbone, classifier.head))
    images = library.Input(classifier.backbone.input_shape[1:])
    model = library.Model(images, head(backbone(images, training=False)))
    model.compile(
        optimizer=library.optimizers.Adam(recipe.phases[0].lr_max),
        loss=library.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    plan = _plan(recipe, data, pathlib.Path(contest.run), lambda: False)
    batches = plan.train_data(epoch=0, skip_batches=0, augment=False)(HostSlice())
    batches = batches.map(lambda batch: (batch["image"], batch["label"], batch["weight"])).prefetch(2)
    # tf_keras wants to know it for several steps a call.
    batches = batches.apply(tf.data.experimental.assert_cardinality(plan.steps_per_epoch))
    laps = Laps()
    while True:
        model.fit(batches, epochs=1, verbose=0)
        if not laps.lap():
            return


_KEPT = ("name", "filters", "kernel_size", "strides", "padding", "use_bias", "activation", "units", "pool_size", "rate")
_KEPT_BY_BATCH_NORM = ("name", "momentum", "epsilon")


def in_tf_keras(model: Any) -> Any:
    """Rebuilds a functional model, weights included, in tf_keras; checks that it gives the same outputs."""
    import numpy as np
    import tensorflow as tf
    import tf_keras

    tensors: dict[int, Any] = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            tensors[id(layer.output)] = tf_keras.Input(layer.output.shape[1:], name=layer.name)
            continue
        kept = _KEPT_BY_BATCH_NORM if kind == "BatchNormalization" else _KEPT
        config = {key: value for key, value in layer.get_config().items() if key in kept}
        if config.get("activation") == "relu6":
            config["activation"] = tf.nn.relu6
        inputs = [tensors[id(tensor)] for tensor in layer._inbound_nodes[0].input_tensors]
        twin = getattr(tf_keras.layers, kind)(**config)
        tensors[id(layer.output)] = twin(inputs[0] if len(inputs) == 1 else inputs)
        twin.set_weights([weight for weight in layer.get_weights() if weight.dtype.kind == "f"])
    converted = tf_keras.Model(tensors[id(model.input)], tensors[id(model.output)], name=model.name)
    probe = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(converted(probe), model(probe, training=False), rtol=1e-3, atol=1e-4)
    return converted


def _share(contest: Contest) -> None:
    """Trains undisturbed, and times every call that logs or saves; prints one line at the end."""
    from trainer.train import loop
    from trainer.train.checkpoint import StateCheckpoint
    from trainer.train.metrics import MetricsLog
    from trainer.train.progress import Progress

    spent = {"checkpoints": 0.0, "selected weights": 0.0, "metrics": 0.0, "progress": 0.0}
    saves = 0

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal saves
            saves += name == "checkpoints"
            start = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.monotonic() - start

        return wrapper

    owners: list[tuple[str, Any, str]] = [
        ("checkpoints", StateCheckpoint, "save"),
        ("selected weights", loop, "save_best"),
        ("metrics", MetricsLog, "add"),
        ("progress", Progress, "update"),
    ]
    for name, owner, attribute in owners:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    recipe, data = _recipe(contest), contest.open()
    calls_left, start = _calls_per_epoch(recipe, data), 0.0

    def stop_requested() -> bool:
        nonlocal calls_left, start, saves
        calls_left -= 1
        if calls_left == 0:  # the first epoch has compiled everything
            start, saves = time.monotonic(), 0
            spent.update(dict.fromkeys(spent, 0.0))
        return bool(start) and time.monotonic() - start > contest.share_seconds

    _train(recipe, data, pathlib.Path(contest.run), stop_requested)
    seconds = time.monotonic() - start
    print(MARK + json.dumps({"seconds": seconds, "spent": spent, "checkpoints_written": saves}), flush=True)


def main(argument: str) -> None:
    """Runs the contestant that `argument`, a Contest as JSON, describes."""
    contest = Contest(**json.loads(argument))
    if contest.contestant in FIT:
        _fit(contest, *FIT[contest.contestant])
    elif contest.contestant == OURS:
        _ours(contest, _recipe(contest))
    elif contest.contestant == SHARE:
        _share(contest)
    else:
        _ours(contest, _recipe(contest, head_only=True, cached=contest.contestant == CACHED))


if __name__ == "__main__":
    main(sys.argv[1])
