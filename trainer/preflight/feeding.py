"""Measures how much processor time the input pipeline takes for an image on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline import dataset
from pipeline.format import records
from pipeline.format.manifest import TRAIN, DatasetVersion, Manifest, Shard
from trainer.models import backbone_info
from trainer.recipes.recipe import Phase, Recipe

_SAMPLE_IMAGES = 256
_TIMES_RESIDENT = 200  # that the sample is gone through in an epoch
_MAX_BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
    """Holds what feeding costs here.

    Attributes:
      core_seconds: processor time of one image.
      images: that were measured.
      cores: of this machine.
      machine: its processor, for the report.
      sample: what was measured, for the report.
    """

    core_seconds: float
    images: int
    cores: int
    machine: str
    sample: str


def measure(
    recipe: Recipe, data: DatasetVersion | None, *, side: int, resident: bool = False, seconds: float = 3.0
) -> Feed:
    """Runs the recipe's own input pipeline, augmentation included, for some seconds.

    Processor time is counted, not elapsed time: other work on the machine then matters little.

    Args:
      recipe: says what is done with the images.
      data: whose training split is read, or None for a sample of made-up JPEGs.
      side: pixels of the longer side of those.
      resident: whether the images lie on the chips.
      seconds: how long to measure.
    """
    if data is not None:
        count, spent = _run(recipe, data, cache="device" if resident else "auto", seconds=seconds)
        return _feed(count, spent, f"training images of {data.path}")
    height, width = side * 3 // 4 if side > 64 else side, side
    with tempfile.TemporaryDirectory(prefix="preflight-") as directory:
        made = write_sample(pathlib.Path(directory), count=_SAMPLE_IMAGES, height=height, width=width)
        if resident:  # an image costs so little that the beginning of an epoch would be most of it
            shards = made.manifest.shards(TRAIN) * _TIMES_RESIDENT
            made = dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, splits={TRAIN: shards}))
        # As a large set is read: a sample this small would be held decoded.
        count, spent = _run(recipe, made, cache="device" if resident else "bytes", seconds=seconds)
    sample = f"a made-up sample of {width}×{height} JPEGs; --data=DATA measures your own"
    return _feed(count, spent, sample)


def _feed(count: int, spent: float, sample: str) -> Feed:
    cores = len(os.sched_getaffinity(0))
    return Feed(core_seconds=spent / count, images=count, cores=cores, machine=_processor(), sample=sample)


def _processor() -> str:
    """Names this machine's processor."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"an unnamed {platform.machine()} processor"


def _run(recipe: Recipe, data: DatasetVersion, *, cache: str, seconds: float) -> tuple[int, float]:
    batch = min(recipe.batch_size, _MAX_BATCH, data.manifest.num_examples("train"))

    def batches() -> Iterator[object]:
        for epoch in range(1 << 20):
            yield from dataset.train_dataset(
                data,
                "train",
                height=recipe.image_size,
                width=recipe.image_size,
                preprocess=backbone_info(recipe.backbone).preprocess,
                augment=recipe.augment,
                seed=0,
                epoch=epoch,
                global_batch_size=batch + batch % 2,
                view=recipe.view,
                cache=cache,
            )

    source = batches()
    next(source)  # traces, opens files
    start, cpu, count = time.monotonic(), time.process_time(), 0
    for _ in source:
        count += batch
        if time.monotonic() - start > seconds:
            break
    return count, time.process_time() - cpu


def batch_spec(
    recipe: Recipe,
    phase: Phase | None,
    *,
    batch: int,
    classes: int,
    chips_of_host: int = 1,
    resident: tuple[int, int] | None = None,
) -> dict[str, tf.TensorSpec]:
    """Returns what the input pipeline hands to a chip.

    Args:
      recipe: that trains.
      phase: of training, not one on cached features; None for evaluation.
      batch: images a chip.
      classes: labels.
      chips_of_host: chips that a host feeds.
      resident: height and width of images that lie on the chips, or None.

    Raises:
      UsageError: what the input pipeline refuses, such as an odd number of images of a host to be mixed in pairs.
    """
    side = recipe.image_size
    height, width = resident or (side, side)
    options: dict[str, Any] = {
        "height": side,
        "width": side,
        "preprocess": backbone_info(recipe.backbone).preprocess,
        "global_batch_size": batch * chips_of_host,
        "view": recipe.view,
        "cache": "device" if resident else "none",
    }
    with tempfile.TemporaryDirectory(prefix="preflight-") as directory:
        data = write_sample(pathlib.Path(directory), count=1, height=height, width=width, classes=classes)
        if phase is None:
            plain = recipe.augmentation(False)
            of_host = dataset.eval_dataset(data, TRAIN, on_accelerator=plain.on_accelerator, **options)
        else:
            augment = recipe.augmentation(phase.augment)
            of_host = dataset.train_dataset(data, TRAIN, augment=augment, seed=0, epoch=0, **options)
    return {name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype) for name, spec in of_host.element_spec.items()}


def write_sample(directory: pathlib.Path, *, count: int, height: int, width: int, classes: int = 2) -> DatasetVersion:
    """Writes a dataset of smooth random JPEGs with a little noise (they decode about as slowly as photos do)."""
    rng = np.random.default_rng(0)
    framed, digests = [], []
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        digests.append(hashlib.sha256(file.getvalue()).hexdigest())
        record = records.Record(
            image=file.getvalue(),
            label=index % classes,
            id=digests[-1],
            source=f"sample:{index}",
            height=height,
            width=width,
        )
        framed.append(records.frame(records.encode_example(record)))
    payload = b"".join(framed)
    name = "sample-train.tfrecord-00000-of-00001"
    (directory / name).write_bytes(payload)
    shard = Shard(name=name, examples=count, bytes=len(payload), sha256=hashlib.sha256(payload).hexdigest())
    manifest = Manifest(
        name="sample",
        version="1.0.0",
        labels=tuple(map(str, range(classes))),
        splits={"train": (shard,)},
        source_fingerprint=hashlib.sha256("".join(digests).encode()).hexdigest(),
        build={},
        code_version="sample",
        max_height=height,
        max_width=width,
    )
    return DatasetVersion(path=directory, manifest=manifest)
