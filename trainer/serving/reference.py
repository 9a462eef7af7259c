"""Writes the reference of an export: what the model answers to images that it was evaluated on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.reference import REFERENCE_FILE, Reference
from pipeline.format.rows import FACTS, known_images
from trainer.models.weights import LABELS_FILE
from trainer.serving.litert import FEATURES, PROBABILITIES
from trainer.serving.loading import find_model, load_model

_MOST = 500
_BATCH = 32
_MOST_SECONDS = 30.0
# What differs between a dataset's images and a file that somebody sends, although both show the same.
_OF_SHRUNK = ("sharpness", "area", "bytes_per_pixel")
_OF_PIXELS = ("bytes_per_pixel",)


def write_reference(
    export: storage.Path, data: DatasetVersion, split: str, *, most: int = _MOST, seed: int = 0
) -> None:
    """Asks an export about images of a split, drawn at random, and writes `reference.npz` into it.

    The form is asked that a server takes, about the bytes of the records, so that numbers agree with those of service.

    Args:
      export: its folder.
      data: the dataset.
      split: that the model was evaluated on, and not trained on.
      most: how many images.
      seed: of the draw.

    Raises:
      DataError: a shard or a table of the dataset is damaged.
    """
    labels = storage.read_text(storage.join(export, LABELS_FILE)).splitlines()
    count = data.manifest.num_examples(split)
    drawn = set(np.random.default_rng(seed).permutation(count)[:most].tolist())
    records = [record for at, record in enumerate(data.read(split)) if at in drawn]
    answers = _ask(os.fspath(export), [record.image for record in records])
    records = records[: len(answers[PROBABILITIES])]
    place = {name: at for at, name in enumerate(labels)}
    reference = Reference(
        dataset=f"{data.manifest.name} {data.manifest.version}",
        split=split,
        labels=labels,
        truth=np.array([place.get(data.manifest.labels[record.label], -1) for record in records]),
        probabilities=answers[PROBABILITIES],
        features=answers.get(FEATURES),
        facts=_facts(data, split, [record.id for record in records]),
    )
    storage.write_atomically(storage.join(export, REFERENCE_FILE), reference.to_bytes())


def _ask(export: str, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Asks about images until the time is over: records lie in no order, so the first ones are a sample, too."""
    model, end = load_model(find_model(export)), time.monotonic() + _MOST_SECONDS
    found: list[dict[str, np.ndarray]] = []
    for start in range(0, len(encoded), _BATCH):
        if found and time.monotonic() > end:  # of a large model on a small machine
            break
        found.append(model(encoded[start : start + _BATCH]))
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _facts(data: DatasetVersion, split: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the facts of images that are known of all of them and mean the same of images in service."""
    build = data.manifest.build
    left_out = _OF_SHRUNK if build.get("policy.max_side") else _OF_PIXELS if data.manifest.has_png else ()
    known = known_images(data, split=split)
    places = {image: at for at, image in enumerate(known.ids)}
    at = [places[image] for image in ids]
    facts = {name: known.facts[name][at] for name in FACTS if name not in left_out}
    return {name: values for name, values in facts.items() if np.isfinite(values).all()}
