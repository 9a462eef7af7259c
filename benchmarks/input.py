"""Measures the input pipeline, images/s at 224×224 with five operations, against its peers on the same photos.

    python -m benchmarks.input --data=DATA [--peer_python=VENV/bin/python] --output=input.json

The five operations are flip, shift 10 %, saturation 20 %, contrast 20 % and two cutouts of 40 %; everything ends as
float32 batches of 128 in 0..255. Each contestant runs in a process of its own, one after another, `--rounds` times,
pinned to `--cores` processors; its rate is the best of its rounds, because other load only ever slows one down.

 * decode: TFRecords → pixels, nothing else;
 * decode_resize: and a bilinear resize;
 * ours: `pipeline.dataset.train_dataset`, streamed (cache=none); ours_cached: the cache it chooses by itself;
 * tf_image: the usual chain of tf.image calls, image by image;
 * keras_cv, keras: their layers, batch by batch, in tf.data;
 * grain: Google's loader with albumentations and OpenCV in worker processes (needs `--peer_python`, an interpreter with
   grain, albumentations and opencv-python-headless).

`--scale` instead writes 1,000 and 100,000 small records in 64 shards and compares rate and time to the first batch.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

from pipeline.command import CommandError, UsageError, run_command
from pipeline.format import records
from pipeline.format.manifest import DatasetVersion, open_dataset

_DATA = flags.DEFINE_string("data", None, "Dataset of real photos.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures.")
_CORES = flags.DEFINE_integer("cores", 2, "Processors to use.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each contestant runs.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Length of one measurement.", lower_bound=0.1)
_PEER_PYTHON = flags.DEFINE_string("peer_python", "", "Interpreter that has grain, albumentations and OpenCV.")
_PEERS = flags.DEFINE_list("peers", [], "Only these contestants; empty: all.")
_RUN = flags.DEFINE_string("run", "", "Internal: the contestant that this process is.")
_SCALE = flags.DEFINE_bool("scale", False, "Compare 1,000 with 100,000 records instead.")

SIDE, BATCH = 224, 128
WARM_UP_BATCHES = 6
# (numerator, denominator, least ratio): what is to be reached.
TARGETS = (
    ("ours", "decode_resize", 0.70),
    ("ours", "keras_cv", 5.0),
    ("ours", "keras", 1.0),
    ("ours", "tf_image", 1.0),
)


def measure(batches: Iterator[Any], seconds: float) -> dict[str, float]:
    """Measures an endless iterator of batches: images/s, and processor-milliseconds an image."""
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    count, started, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        next(batches)
        count += BATCH
    elapsed, busy = time.perf_counter() - started, time.process_time() - worked
    return {"rate": count / elapsed, "core_ms": 1e3 * busy / count}


def several_times(data: DatasetVersion, least: int = 8_000) -> DatasetVersion:
    """Lists the same shards as often as an epoch of `least` examples takes: contestants stream on, without restarts."""
    shards = data.manifest.shards("train")
    times = -(-least // data.manifest.num_examples("train"))
    manifest = dataclasses.replace(data.manifest, splits={"train": shards * times})
    return DatasetVersion(path=data.path, manifest=manifest)


def _parsed(data: DatasetVersion) -> Any:
    """Reads encoded images, endlessly, as everyone reads them."""
    import tensorflow as tf

    features = {records.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    shards = data.shard_paths("train")
    return (
        tf.data.TFRecordDataset(shards)
        .repeat()
        .map(lambda e: tf.io.parse_single_example(e, features)[records.IMAGE], num_parallel_calls=_CORES.value)
    )


def _finished(dataset: Any) -> Iterator[Any]:
    return iter(dataset.batch(BATCH, drop_remainder=True).prefetch(2))


def decode(data: DatasetVersion) -> Iterator[Any]:
    import tensorflow as tf

    decoded = _parsed(data).map(lambda e: tf.io.decode_jpeg(e, channels=3)[:1, :1], num_parallel_calls=_CORES.value)
    return _finished(decoded)


def _resized(data: DatasetVersion) -> Any:
    import tensorflow as tf

    return _parsed(data).map(
        lambda e: tf.image.resize(tf.io.decode_jpeg(e, channels=3), [SIDE, SIDE]), num_parallel_calls=_CORES.value
    )


def decode_resize(data: DatasetVersion) -> Iterator[Any]:
    return _finished(_resized(data))


def _ours(data: DatasetVersion, cache: str) -> Iterator[Any]:
    from pipeline.augment.config import AugmentConfig
    from pipeline.dataset import train_dataset

    augment = AugmentConfig(flip=True, shift=0.1, saturation=0.2, contrast=0.2, cutout_count=2, cutout_size=0.4)
    dataset = train_dataset(
        data,
        "train",
        height=SIDE,
        width=SIDE,
        preprocess="identity",
        augment=augment,
        seed=0,
        epoch=0,
        global_batch_size=BATCH,
        cache=cache,
    )
    return iter(dataset.repeat())


def ours(data: DatasetVersion) -> Iterator[Any]:
    return _ours(data, "none")


def ours_cached(data: DatasetVersion) -> Iterator[Any]:
    return _ours(data, "auto")


def tf_image(data: DatasetVersion) -> Iterator[Any]:
    import tensorflow as tf

    most = int(0.1 * SIDE)
    side = int(0.4 * SIDE)

    def augment(image: tf.Tensor) -> tf.Tensor:
        image = tf.image.random_flip_left_right(image)
        padded = tf.pad(image, [[most, most], [most, most], [0, 0]], mode="SYMMETRIC")
        image = tf.image.random_crop(padded, [SIDE, SIDE, 3])
        image = tf.image.random_saturation(image / 255.0, 0.8, 1.2)
        image = tf.clip_by_value(tf.image.random_contrast(image, 0.8, 1.2), 0.0, 1.0) * 255.0
        at = tf.range(SIDE)
        for _ in range(2):
            y, x = tf.unstack(tf.random.uniform([2], 0, SIDE, tf.int32))
            inside = (tf.abs(at - y) < side // 2)[:, tf.newaxis] & (tf.abs(at - x) < side // 2)[tf.newaxis, :]
            image = tf.where(inside[:, :, tf.newaxis], 0.0, image)
        return image

    return _finished(_resized(data).map(augment, num_parallel_calls=_CORES.value))


def _layers(data: DatasetVersion, layers: list[Any]) -> Iterator[Any]:
    def augment(images: Any) -> Any:
        for layer in layers:
            images = layer(images, training=True)
        return images

    batches = _resized(data).batch(BATCH, drop_remainder=True)
    return iter(batches.map(augment, num_parallel_calls=_CORES.value).prefetch(2))


def keras_cv(data: DatasetVersion) -> Iterator[Any]:
    from keras_cv import layers

    cutout = {"height_factor": 0.4, "width_factor": 0.4}
    return _layers(
        data,
        [
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomSaturation((0.4, 0.6)),
            layers.RandomContrast((0, 255), 0.2),
            layers.RandomCutout(**cutout),
            layers.RandomCutout(**cutout),
        ],
    )


def keras(data: DatasetVersion) -> Iterator[Any]:
    from keras import layers

    cutout = {"factor": 1.0, "scale": (0.16, 0.16), "fill_value": 0.0, "value_range": (0, 255)}
    return _layers(
        data,
        [
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomSaturation((0.4, 0.6), value_range=(0, 255)),
            layers.RandomContrast(0.2, value_range=(0, 255)),
            layers.RandomErasing(**cutout),
            layers.RandomErasing(**cutout),
        ],
    )


CONTESTANTS: dict[str, Callable[[DatasetVersion], Iterator[Any]]] = {
    f.__name__: f for f in (decode, decode_resize, ours, ours_cached, tf_image, keras_cv, keras)
}


def _child(command: list[str]) -> dict[str, float]:
    """Runs one contestant and returns its figures, which it prints as JSON in its last line."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CommandError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def _command(name: str, data: str, files: pathlib.Path) -> list[str]:
    if name == "grain":
        script = pathlib.Path(__file__).with_name("input_grain.py")
        return [_PEER_PYTHON.value, str(script), str(files), str(_CORES.value), str(_SECONDS.value)]
    settings = [f"--data={data}", f"--cores={_CORES.value}", f"--seconds={_SECONDS.value}", f"--scale={_SCALE.value}"]
    return [sys.executable, "-m", "benchmarks.input", f"--run={name}", *settings]


def compare(data: DatasetVersion) -> dict[str, Any]:
    """Runs all contestants in turn; prints how the targets were met, and returns the best figures and all runs."""
    names = _PEERS.value or [*CONTESTANTS, *(["grain"] if _PEER_PYTHON.value else [])]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        for shard in data.manifest.shards("train"):
            with (data.path / shard.name).open("rb") as file:
                for payload in records.read_frames(file):
                    image = records.decode_example(payload).image
                    (pathlib.Path(folder) / f"{number:06d}.jpg").write_bytes(image)
                    number += 1
        for round_number in range(_ROUNDS.value):
            for name in names:
                runs[name].append(_child(_command(name, str(data.path), pathlib.Path(folder))))
                last = runs[name][-1]
                print(
                    f"round {round_number}: {name:14s} {last['rate']:7.0f} images/s, {last['core_ms']:.3f} core-ms",
                    flush=True,
                )
    rates = {name: max(run["rate"] for run in measured) for name, measured in runs.items()}
    work = {name: min(run["core_ms"] for run in measured) for name, measured in runs.items()}
    print(f"\n{'contestant':14s} images/s  core-ms/image  ours is")
    for name in names:
        ratio = f"{rates['ours'] / rates[name]:6.2f}x" if "ours" in rates else ""
        print(f"{name:14s} {rates[name]:8.0f}  {work[name]:13.3f}  {ratio}")
    for first, second, least in (*TARGETS, ("ours", "grain", 1.0)):
        if first in rates and second in rates:
            ratio = rates[first] / rates[second]
            print(f"{first} / {second}: {ratio:.2f}, to reach {least:.2f}: {'met' if ratio >= least else 'MISSED'}")
    return {"rates": rates, "core_ms": work, "runs": runs}


def write_small(directory: pathlib.Path, count: int, shards: int = 64) -> DatasetVersion:
    """Writes `count` records of small images with distinct ids."""
    import hashlib

    from PIL import Image

    from pipeline.format.manifest import MANIFEST_FILE, Manifest, Shard

    rng = np.random.default_rng(0)
    images = []
    for _ in range(50):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((128, 128))
        file = io.BytesIO()
        coarse.save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    directory.mkdir(parents=True)
    listed = []
    for index, part in enumerate(np.array_split(np.arange(count), shards)):
        name = f"small-train.tfrecord-{index:05d}-of-{shards:05d}"
        content = b"".join(
            records.frame(
                records.encode_example(
                    records.Record(
                        image=images[i % 50],
                        label=int(i) % 10,
                        id=hashlib.sha256(str(i).encode()).hexdigest(),
                        source="",
                        height=128,
                        width=128,
                    )
                )
            )
            for i in part
        )
        (directory / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        listed.append(Shard(name=name, examples=len(part), bytes=len(content), sha256=digest))
    manifest = Manifest(
        name="small",
        version="1.0.0",
        labels=tuple(map(str, range(10))),
        splits={"train": tuple(listed)},
        source_fingerprint="",
        build={},
        code_version="0",
        max_height=128,
        max_width=128,
    )
    (directory / MANIFEST_FILE).write_text(manifest.to_json())
    return open_dataset(directory)


def compare_scales() -> dict[str, Any]:
    """Measures rate and time to the first batch for 1,000 and 100,000 records, streamed and cached."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 100_000):
            path = pathlib.Path(folder) / str(count)
            write_small(path, count)
            for name in ("ours", "ours_cached"):
                runs = [_child(_command(name, str(path), path)) for _ in range(_ROUNDS.value)]
                best = {
                    "rate": max(run["rate"] for run in runs),
                    **{key: min(r[key] for r in runs) for key in ("core_ms", "first_batch_s", "first_batch_core_s")},
                }
                figures[f"{name} {count}"] = best
                print(
                    f"{name:12s} {count:7d} records: {best['rate']:6.0f} images/s, {best['core_ms']:.3f} core-ms; "
                    f"first batch after {best['first_batch_s']:.2f} s, {best['first_batch_core_s']:.2f} core-s",
                    flush=True,
                )
    return figures


def run_contestant(name: str, data: DatasetVersion) -> dict[str, float]:
    """Measures one contestant in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: _CORES.value])
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.constant(0)  # the runtime's own start-up is not the pipeline's
    started, worked = time.perf_counter(), time.process_time()
    batches = CONTESTANTS[name](data)
    next(batches)
    first = {"first_batch_s": time.perf_counter() - started, "first_batch_core_s": time.process_time() - worked}
    return {**measure(batches, _SECONDS.value), **first}


def main(arguments: list[str]) -> None:
    del arguments
    if _RUN.value:
        print(
            json.dumps(
                run_contestant(
                    _RUN.value, several_times(open_dataset(_DATA.value), least=1_000 if _SCALE.value else 8_000)
                )
            )
        )
        return
    if not _SCALE.value and not _DATA.value:
        raise UsageError("--data=DATA: a dataset built from photos is needed (or --scale)")
    figures = compare_scales() if _SCALE.value else compare(open_dataset(_DATA.value))
    if _OUTPUT.value:
        machine = {"machine": platform.processor() or platform.machine(), "cores": _CORES.value}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps({**machine, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
