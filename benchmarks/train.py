"""Measures the training loop against `fit` of Keras 3 and of tf_keras, and what caching features and logging cost.

    python -m benchmarks.train --data=DATA --output=train.json

DATA is any built dataset, e.g. CIFAR-10 from beam_jobs.build_tfrecords. Three comparisons, each for every model:
 * throughput: one epoch a round, un-augmented, Adam, batch norm in inference mode, all fed by pipeline.dataset.
   All contestants are processes of one run that take turns, round by round; a ratio is of two times of one round.
   Ours is the whole Trainer with its progress line, metrics files and checkpoints (one falls due at the start of almost
   every round, because the others' rounds pass meanwhile: more than in a run of its own). Keras' `fit` is taken as it
   comes and tuned (20 steps a call as ours, no XLA); so is tf_keras'. Part of ours: trainer.devices.memory, which
   spares page faults on a CPU, and the model's lean twin (trainer.models.twin); theirs run without them.
 * cached features: epochs of a phase that trains the head alone, with and without `cached_features`.
 * the share of an uninterrupted run's time, validation included and compilation excluded, that goes into the progress
   line, metrics files, events and checkpoints.
tf_keras lives in a virtual environment made for the run and gone after it; it shares this one's TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from typing import IO, Any

from absl import flags

from benchmarks.train_contestant import CACHED, FIT, FROZEN, MARK, OURS, SHARE, Contest, first_images
from pipeline.command import CommandError, UsageError, run_command
from trainer.preflight.cache import installed

_DATA = flags.DEFINE_string("data", None, "Dataset root, or one version directory.", required=True)
_MODELS = flags.DEFINE_list("models", ["efficientnet_lite0@64", "cifar10_cnn@32"], "Backbones and their image sizes.")
_PARTS = flags.DEFINE_list("parts", ["throughput", "cached", "share"], "Which comparisons to make.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images a step.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 0, "Take as many shards as hold about this many images; 0: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds of each contestant.", lower_bound=1)
_SHARE_SECONDS = flags.DEFINE_integer("share_seconds", 240, "How long the uninterrupted run lasts.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "train.json", "Where the figures go.")

EPOCHS_OF_THE_HEAD = 30  # of the recipe `photos`
_ROOT = pathlib.Path(__file__).resolve().parents[1]


class Worker:
    """Runs a contestant in a process of its own."""

    def __init__(self, contestant: str, model: str, folder: pathlib.Path, python: str) -> None:
        self.contestant = contestant
        self._log = folder / f"{contestant}-{model}.log".replace(" ", "-").replace(",", "")
        run = self._log.with_suffix("")
        run.mkdir()
        contest = Contest(
            contestant=contestant,
            model=model,
            data=_DATA.value,
            run=str(run),
            batch_size=_BATCH.value,
            images=_IMAGES.value,
            share_seconds=_SHARE_SECONDS.value,
        )
        self._stderr: IO[str] = self._log.open("w")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.train_contestant", json.dumps(dataclasses.asdict(contest))],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )

    def result(self) -> Any:
        """Waits for what the worker says next; CommandError with the end of its log if it ended instead."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self._process.wait()
        raise CommandError(f"{self.contestant} ended early:\n{self._log.read_text()[-2000:]}")

    def go(self) -> dict[str, float]:
        """Has the worker do one more round; returns its seconds, "wall" and "processor"."""
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
    """Makes a virtual environment with tf_keras that sees this one's packages; returns its python."""
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
    version = ".".join(installed()["tensorflow"].split(".")[:2])
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", f"tf_keras=={version}.*"]
    subprocess.run([sys.executable, *install], check=True)
    return python


Rounds = list[dict[str, float]]  # seconds of each measured round, as `Worker.go` returns them


def _ratio(ours: Rounds, theirs: Rounds) -> dict[str, float]:
    ratios = sorted(b["wall"] / a["wall"] for a, b in zip(ours, theirs, strict=True))
    return {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}


def _take_turns(workers: list[Worker]) -> dict[str, Rounds]:
    """Runs the rounds of every contestant, in alternating order."""
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
    if unknown := set(_PARTS.value) - {"throughput", "cached", "share"}:
        raise UsageError(f"--parts={min(unknown)}: there are throughput, cached and share")
    images = first_images(_DATA.value, _IMAGES.value).manifest.num_examples("train")
    figures: dict[str, Any] = {
        "command": ["python", "-m", "benchmarks.train", *sys.argv[1:]],
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "packages": installed(),
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
