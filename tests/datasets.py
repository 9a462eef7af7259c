"""Writes small dataset versions for the tests of every room, by the real record and manifest code."""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pipeline.format import records
from pipeline.format.manifest import (
    CURRENT_FILE,
    MANIFEST_FILE,
    VERSIONS_DIR,
    DatasetVersion,
    Manifest,
    Shard,
    open_dataset,
)
from pipeline.format.records import Record


def jpeg(pixels: np.ndarray, *, quality: int = 90) -> bytes:
    """Encodes uint8 `[h, w, 3]` or `[h, w]`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def record(image: bytes, label: int, *, name: str = "") -> Record:
    """Makes a record of an encoded JPEG; `name` tells equal images apart."""
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    digest = hashlib.sha256(image + name.encode()).hexdigest()
    return Record(
        image=image, label=label, id=digest, source=f"test://{name or digest[:8]}", height=height, width=width
    )


def smooth_image(rng: np.random.Generator, *, height: int, width: int) -> np.ndarray:
    """Draws an image, uint8 `[h, w, 3]`, random but smooth, as photos are."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def random_records(count: int, *, classes: int, height: int = 24, width: int = 32, seed: int = 0) -> list[Record]:
    """Makes records of smooth random images, labels in turn."""
    rng = np.random.default_rng(seed)
    return [
        record(jpeg(smooth_image(rng, height=height, width=width)), i % classes, name=f"{seed}-{i}")
        for i in range(count)
    ]


def write_dataset(
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    labels: Sequence[str],
    *,
    name: str = "test",
    version: str = "1.0.0",
    shards: int = 2,
) -> DatasetVersion:
    """Writes a published dataset version under `root` (records in the order given, shard by shard) and opens it."""
    directory = pathlib.Path(root) / VERSIONS_DIR / version
    directory.mkdir(parents=True)
    listed = {}
    for split, examples in splits.items():
        listed[split] = []
        for index, part in enumerate(np.array_split(np.arange(len(examples)), shards)):
            payload = b"".join(records.frame(records.encode_example(examples[i])) for i in part)
            file = f"{name}-{split}.tfrecord-{index:05d}-of-{shards:05d}"
            (directory / file).write_bytes(payload)
            digest = hashlib.sha256(payload).hexdigest()
            listed[split].append(Shard(name=file, examples=len(part), bytes=len(payload), sha256=digest))
    everything = [example for examples in splits.values() for example in examples]
    manifest = Manifest(
        name=name,
        version=version,
        labels=tuple(labels),
        splits={split: tuple(parts) for split, parts in listed.items()},
        source_fingerprint=hashlib.sha256("".join(e.id for e in everything).encode()).hexdigest(),
        build={},
        code_version="0.1.0",
        max_height=max((e.height for e in everything), default=1),
        max_width=max((e.width for e in everything), default=1),
    )
    (directory / MANIFEST_FILE).write_text(manifest.to_json())
    (pathlib.Path(root) / CURRENT_FILE).write_text(version + "\n")
    return open_dataset(root)


def coloured_records(count: int, *, classes: int, side: int = 16, seed: int = 0) -> list[Record]:
    """Makes records that a small model learns in seconds: the label is the colour channel raised, under noise."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        pixels = rng.normal(90, 40, (side, side, 3))
        pixels[:, :, i % classes] += 70
        found.append(record(jpeg(np.clip(pixels, 0, 255).astype(np.uint8)), i % classes, name=f"{seed}-{i}"))
    return found
