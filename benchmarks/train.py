"""How fast the training loop is, against `fit` of Keras 3 and of tf_keras; what caching features and logging cost.

    python -m benchmarks.train --data=DATA --output=train.json

DATA is any built dataset, e.g. CIFAR-10 from beam_jobs.build_tfrecords. Three comparisons, each for every model:
 * throughput: one epoch a round, un-augmented, Adam, batch norm in inference mode, all fed by pipeline.dataset.
   All contestants are processes of one run that take turns, round by round; a ratio is of two times of one round.
   Ours is the whole Trainer with its progress line, metrics files and checkpoints (one falls due at the start of almost
   every round, because the others' rounds pass meanwhile: more than in a run of its own). Keras' `fit` is taken as it
   comes and tuned (20 steps a call as ours, no XLA); so is tf_keras'. Part of ours is trainer.memory, which spares page
   faults on a CPU; theirs run without it.
 * cached features: epochs of a phase that trains the head alone, with and without `cached_features`.
 * the share of an uninterrupted run's time, validation included and compilation excluded, that goes into the progress
   line, metrics files, events and checkpoints.
tf_keras lives in a virtual environment made for the run and gone after it; it shares this one's TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import IO, Any

from absl import flags

from pipeline.cli import CommandError, TryAgainError, UsageError, run_command
from pipeline.manifest import DatasetVersion, open_dataset

_DATA = flags.DEFINE_string("data", None, "Dataset root, or one version directory.", required=True)
_MODELS = flags.DEFINE_list("models", ["efficientnet_lite0@64", "cifar10_cnn@32"], "Backbones and their image sizes.")
_PARTS = flags.DEFINE_list("parts", ["throughput", "cached", "share"], "Which comparisons to make.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images a step.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 0, "Take as many shards as hold about this many images; 0: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds of each contestant.", lower_bound=1)
_SHARE_SECONDS = flags.DEFINE_integer("share_seconds", 240, "How long the uninterrupted run lasts.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "train.json", "Where the figures go.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: the contestant that this process is.")

STEPS_PER_CALL = 20
EPOCHS_OF_THE_HEAD = 30  # of the recipe `photos`
_MARK = "@@ "  # a worker's lines that are meant for the benchmark
_ROOT = pathlib.Path(__file__).resolve().parents[1]

TUNED: dict[str, Any] = {"steps_per_execution": STEPS_PER_CALL, "jit_compile": False}
FIT: dict[str, tuple[str, dict[str, Any]]] = {
    "keras fit": ("keras", {}),
    "keras fit, tuned": ("keras", TUNED),
    "tf_keras fit": ("tf_keras", {}),
    "tf_keras fit, tuned": ("tf_keras", TUNED),
}
OURS, CACHED, FROZEN, SHARE = "ours", "cached features", "frozen backbone", "share"


# --- workers: one process each ---------------------------------------------------------------------------------------


class Laps:
    """Times rounds: tells the benchmark how long one took, and waits until it is this process's turn again."""

    def __init__(self) -> None:
        self._start = time.monotonic(), time.process_time()

    def lap(self) -> bool:
        """Returns whether there is another round."""
        wall, processor = time.monotonic() - self._start[0], time.process_time() - self._start[1]
        print(_MARK + json.dumps({"wall": wall, "processor": processor}), flush=True)
        more = sys.stdin.readline().strip() == "go"
        self._start = time.monotonic(), time.process_time()
        return more


def _data() -> DatasetVersion:
    """The dataset with the first shards only of its training split."""
    data = open_dataset(_DATA.value)
    if not _IMAGES.value:
        return data
    shards, images = [], 0
    for shard in data.manifest.shards("train"):
        if images < _IMAGES.value:
            shards.append(shard)
            images += shard.examples
    splits = {**data.manifest.splits, "train": tuple(shards)}
    return dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits=splits))


def _without_validation(data: DatasetVersion) -> DatasetVersion:
    splits = {"train": data.manifest.splits["train"]}
    return dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits=splits))


def _recipe(model: str, *, head_only: bool = False, cached: bool = False) -> Any:
    from trainer.config import OptimizerConfig, Phase, Recipe
    from trainer.models import HeadConfig
    from trainer.schedule import Duration

    backbone, side = model.split("@")
    own = backbone == "cifar10_cnn"
    return Recipe(
        name="benchmark",
        backbone=backbone,
        weights="none" if own else "imagenet",
        image_size=int(side),
        head=HeadConfig(pooling="flatten", hidden=512) if own else HeadConfig(pooling="avg"),
        batch_size=_BATCH.value,
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
    from etils import epath

    from trainer.loop import Plan

    ones = np.ones(data.manifest.num_classes, np.float32)
    return Plan(
        recipe=recipe, data=data, seed=0, run=epath.Path(run), class_weights=ones, stop_requested=stop_requested
    )


def _train(recipe: Any, data: DatasetVersion, run: pathlib.Path, stop_requested: Callable[[], bool]) -> None:
    """Runs the real Trainer until `stop_requested`, which it asks after every host call."""
    from trainer.checkpoint import build_from_recipe
    from trainer.loop import Trainer
    from trainer.strategy import make_strategy

    strategy = make_strategy("")
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=data.manifest.num_classes, seed=0)
    trainer = Trainer(_plan(recipe, data, run, stop_requested), classifier, strategy)
    with contextlib.suppress(TryAgainError):
        trainer.train()


def _calls_per_epoch(recipe: Any, data: DatasetVersion) -> int:
    """How often the loop asks `stop_requested` in an epoch: after every host call."""
    return -(-data.manifest.num_examples("train") // (recipe.batch_size * STEPS_PER_CALL))


def _ours(recipe: Any, run: pathlib.Path) -> None:
    """The real Trainer; a round is an epoch."""
    data = _without_validation(_data())
    calls_per_epoch = _calls_per_epoch(recipe, data)
    laps, calls = Laps(), 0

    def stop_requested() -> bool:
        nonlocal calls
        calls += 1
        return calls % calls_per_epoch == 0 and not laps.lap()

    _train(recipe, data, run, stop_requested)


def _fit(recipe: Any, run: pathlib.Path, framework: str, options: dict[str, Any]) -> None:
    """`compile` and `fit`, one epoch a round."""
    import tensorflow as tf

    from trainer.checkpoint import build_from_recipe
    from trainer.loop import HostSlice

    data = _without_validation(_data())
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
    plan = _plan(recipe, data, run, lambda: False)
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
    """The same functional model, weights included, as a tf_keras one; checks that it gives the same outputs."""
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


def _share(recipe: Any, run: pathlib.Path) -> None:
    """Runs undisturbed, timing every call that logs or saves; ends with one line."""
    from trainer import loop
    from trainer.checkpoint import StateCheckpoint
    from trainer.metrics import MetricsLog
    from trainer.progress import Progress

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
    data = _data()
    calls_left, start = _calls_per_epoch(recipe, data), 0.0

    def stop_requested() -> bool:
        nonlocal calls_left, start, saves
        calls_left -= 1
        if calls_left == 0:  # the first epoch has compiled everything
            start, saves = time.monotonic(), 0
            spent.update(dict.fromkeys(spent, 0.0))
        return bool(start) and time.monotonic() - start > _SHARE_SECONDS.value

    _train(recipe, data, run, stop_requested)
    seconds = time.monotonic() - start
    print(_MARK + json.dumps({"seconds": seconds, "spent": spent, "checkpoints_written": saves}), flush=True)


def work(contestant: str, model: str, run: pathlib.Path) -> None:
    """What a worker process does."""
    if contestant in FIT:
        _fit(_recipe(model), run, *FIT[contestant])
    elif contestant == OURS:
        _ours(_recipe(model), run)
    elif contestant == SHARE:
        _share(_recipe(model), run)
    else:
        _ours(_recipe(model, head_only=True, cached=contestant == CACHED), run)


# --- the benchmark ---------------------------------------------------------------------------------------------------


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: str, model: str, folder: pathlib.Path, python: str) -> None:
        self.contestant = contestant
        self._log = folder / f"{contestant}-{model}.log".replace(" ", "-").replace(",", "")
        flags_to_hand_on = [f"--data={_DATA.value}", f"--batch_size={_BATCH.value}", f"--images={_IMAGES.value}"]
        run = self._log.with_suffix("")
        run.mkdir()
        command = [python, "-m", "benchmarks.train", f"--worker={contestant}", f"--models={model}", f"--output={run}"]
        self._stderr: IO[str] = self._log.open("w")
        self._process = subprocess.Popen(
            [*command, *flags_to_hand_on, f"--share_seconds={_SHARE_SECONDS.value}"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )

    def result(self) -> Any:
        """What the worker says next; CommandError with the end of its log if it ended instead."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        self._process.wait()
        raise CommandError(f"{self.contestant} ended early:\n{self._log.read_text()[-2000:]}")

    def go(self) -> dict[str, float]:
        """Seconds of one more round, "wall" and "processor"."""
        self._tell("go")
        return self.result()

    def _tell(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            try:
                self._tell("stop")
                self._process.wait(timeout=60)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        self._stderr.close()


def make_tf_keras_environment(folder: pathlib.Path) -> str:
    """A virtual environment with tf_keras that sees this one's packages; returns its python."""
    environment = folder / "tf_keras"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    pathlib.Path(inside, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    version = ".".join(metadata.version("tensorflow").split(".")[:2])
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", f"tf_keras=={version}.*"]
    subprocess.run([sys.executable, *install], check=True)
    return python


Rounds = list[dict[str, float]]  # seconds of each measured round, as `Worker.go` returns them


def _ratio(ours: Rounds, theirs: Rounds) -> dict[str, float]:
    ratios = sorted(b["wall"] / a["wall"] for a, b in zip(ours, theirs, strict=True))
    return {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}


def _take_turns(workers: list[Worker]) -> dict[str, Rounds]:
    """The rounds of every contestant, in alternating order."""
    rounds: dict[str, Rounds] = {worker.contestant: [] for worker in workers}
    for number in range(_ROUNDS.value):
        for worker in workers if number % 2 == 0 else reversed(workers):
            rounds[worker.contestant].append(worker.go())
    return rounds


def throughput(model: str, images: int, folder: pathlib.Path, tf_keras_python: str) -> dict[str, Any]:
    """Measures and prints images a second of every contestant."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in (OURS, *FIT):
            python = tf_keras_python if name in FIT and FIT[name][0] == "tf_keras" else sys.executable
            workers.append(stack.enter_context(Worker(name, model, folder, python)))
            workers[-1].result()  # compiles, alone on the machine
        rounds = _take_turns(workers)
    print(f"\n{model}, batches of {_BATCH.value}, {images} images a round, {_ROUNDS.value} rounds")
    # Processor time hardly changes with what else runs on the machine.
    print(
        f"{'':22}{'img/s, median':>14}{'least':>8}{'most':>8}{'ms of CPU/img':>15}   ours is faster by (median, range)"
    )
    result: dict[str, Any] = {"seconds": rounds, "ratios": {}}
    for name, times in rounds.items():
        rates = sorted(images / seconds["wall"] for seconds in times)
        processor = statistics.median(1000 * seconds["processor"] / images for seconds in times)
        line = f"{name:22}{statistics.median(rates):>14.1f}{rates[0]:>8.1f}{rates[-1]:>8.1f}{processor:>15.2f}"
        if name != OURS:
            ratio = result["ratios"][name] = _ratio(rounds[OURS], times)
            line += f"   {ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})"
        print(line, flush=True)
    return result


def cached(model: str, images: int, folder: pathlib.Path) -> dict[str, Any]:
    """Measures and prints the epochs of a head's phase with and without cached features."""
    with (
        Worker(CACHED, model, folder, sys.executable) as with_cache,
        Worker(FROZEN, model, folder, sys.executable) as without,
    ):
        first = {CACHED: with_cache.result()["wall"], FROZEN: without.result()["wall"]}
        rounds = _take_turns([with_cache, without])
    ratio = _ratio(rounds[CACHED], rounds[FROZEN])
    later = {name: statistics.median(seconds["wall"] for seconds in times) for name, times in rounds.items()}
    phase = {name: first[name] + (EPOCHS_OF_THE_HEAD - 1) * later[name] for name in rounds}
    print(
        f"\n{model}, head alone, {images} images: an epoch on cached features is {ratio['median']:.1f} times as fast "
        f"({ratio['least']:.1f} to {ratio['most']:.1f}) as with the frozen backbone; {EPOCHS_OF_THE_HEAD} epochs with "
        f"compilation and caching, from the first and the median later one: {phase[CACHED]:.1f} s against "
        f"{phase[FROZEN]:.1f} s, {phase[FROZEN] / phase[CACHED]:.1f} times as fast",
        flush=True,
    )
    return {"first": first, "seconds": rounds, "epoch_ratio": ratio, "phase": phase}


def share(model: str, folder: pathlib.Path) -> dict[str, Any]:
    """Measures and prints what logging and checkpoints take."""
    with Worker(SHARE, model, folder, sys.executable) as worker:
        result = worker.result()
    total = sum(result["spent"].values()) / result["seconds"]
    parts = ", ".join(f"{name} {seconds / result['seconds']:.2%}" for name, seconds in result["spent"].items())
    print(
        f"\n{model}: logging and checkpoints took {total:.2%} of {result['seconds']:.0f} s "
        f"({parts}; {result['checkpoints_written']} checkpoints)",
        flush=True,
    )
    return {**result, "share": total}


def main(arguments: list[str]) -> None:
    """Makes the comparisons asked for, prints tables, writes the JSON."""
    del arguments
    if _WORKER.value:
        return work(_WORKER.value, _MODELS.value[0], pathlib.Path(_OUTPUT.value))
    if unknown := set(_PARTS.value) - {"throughput", "cached", "share"}:
        raise UsageError(f"--parts={min(unknown)}: there are throughput, cached and share")
    images = _data().manifest.num_examples("train")
    figures: dict[str, Any] = {
        "command": ["python", "-m", "benchmarks.train", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "packages": {name: metadata.version(name) for name in ("tensorflow", "keras")},
        "images": images,
        "models": {model: {} for model in _MODELS.value},
    }
    with tempfile.TemporaryDirectory(prefix="train-") as temporary:
        folder = pathlib.Path(temporary)
        python = make_tf_keras_environment(folder) if "throughput" in _PARTS.value else ""
        for model, results in figures["models"].items():
            if "throughput" in _PARTS.value:
                results["throughput"] = throughput(model, images, folder, python)
            if "cached" in _PARTS.value:
                results["cached"] = cached(model, images, folder)
            if "share" in _PARTS.value:
                results["share"] = share(model, folder)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {_OUTPUT.value}")


if __name__ == "__main__":
    run_command(main)
