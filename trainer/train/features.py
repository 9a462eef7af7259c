"""Keeps what a frozen backbone makes of whole splits: in memory, and part by part on disk, where a stopped run goes on.

Parts lie in RUN/features until no phase is left that trains on them; what `trainer.check` has computed lies beside the
dataset and is read as well. A part's name says what it was made of and which examples it holds, so one that something
else was made of is never read. Where several machines compute a split, nothing is kept on disk: each has other examples
of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.batching import HostSlice
from pipeline.command import first_line
from pipeline.format import storage
from pipeline.format.rows import checks_folder
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.train.evaluation import Evaluator
from trainer.train.feed import distribute, feature_batches
from trainer.train.plan import Plan
from trainer.train.progress import COMPILING, Progress

_FOLDER = "features"
# A stop loses what was computed since the last part was written.
_SECONDS_A_PART, _BYTES_A_PART = 5.0, 64 << 20
_DAMAGES = (zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError, NotImplementedError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Holds what a frozen backbone makes of whole splits; the factories match those of `Plan`.

    Attributes:
      splits: name → features (float32 [N, …]) and labels (int32 [N]), in file order; as tensors, which every epoch's
        data share.
      batch_size: global.
      seed: of the order of training examples.
    """

    splits: Mapping[str, tuple[tf.Tensor, tf.Tensor]]
    batch_size: int
    seed: int

    def eval_data(self, split: str) -> Callable[[HostSlice], tf.data.Dataset]:
        """Returns a factory of the split's batches in file order."""
        return self._factory(split, order=np.arange(len(self.splits[split][1])), skip_batches=0)

    def train_data(self, split: str, *, epoch: int, skip_batches: int) -> Callable[[HostSlice], tf.data.Dataset]:
        """Returns a factory of one epoch's batches."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.splits[split][1]))
        return self._factory(split, order=order, skip_batches=skip_batches)

    def _factory(self, split: str, *, order: np.ndarray, skip_batches: int) -> Callable[[HostSlice], tf.data.Dataset]:
        features, labels = self.splits[split]
        return lambda host: feature_batches(
            features, labels, order=order, batch_size=self.batch_size, skip_batches=skip_batches, host=host
        )


class FeatureParts:
    """Computes the features of splits, and keeps them in a run's folder as parts of whole batches.

    Attributes:
      computed: how many images it has computed the features of, those read apart.
    """

    def __init__(self, plan: Plan, classifier: Classifier, strategy: tf.distribute.Strategy) -> None:
        """Takes the run, the model whose backbone is frozen now, and the devices that compute."""
        self.computed = 0
        self._plan, self._classifier, self._strategy = plan, classifier, strategy
        self._folder = storage.join(plan.run, _FOLDER)
        self._known = storage.join(checks_folder(plan.data), _FOLDER)

    def remove(self) -> None:
        """Removes all parts of the run."""
        storage.delete(self._folder)

    def features(self, split: str, evaluator: Evaluator, *, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns features (float32 [N, …]) and labels (int32 [N]) of a split, in file order; reads what parts hold.

        Args:
          split: its name.
          evaluator: makes features of the plan's images.
          most: how many examples, rounded up to whole batches; None for all.
        """
        examples = self._plan.data.manifest.num_examples(split)
        if most is not None:
            size = self._plan.recipe.batch_size
            examples = min(examples, -(-most // size) * size)
        shape = tuple(self._classifier.backbone.output.shape[1:])
        features, labels = np.zeros((examples, *shape), np.float32), np.zeros(examples, np.int32)
        known = np.zeros(examples, bool)
        name = f"{split}-{digest(self._made_of(split))}"
        for file, first in self._listed(name):
            if part := _read(file, name, first):
                place = slice(first, min(first + len(part[1]), examples))
                held = max(0, place.stop - first)
                features[place], labels[place], known[place] = part[0][:held], part[1][:held], True
        if known.any():
            logging.info("%s: %d of %d images have features from before", split, known.sum(), examples)
        if known.all():
            return features, labels
        done = int(known.sum())
        shown = Progress(f"features of {split}", done=done, total=examples, at_first=COMPILING)
        with contextlib.closing(shown):
            for first, last in _gaps(known):
                begin, end, written = first, first, time.monotonic()
                for values, truth in self._computed(split, evaluator, first=first, last=last, in_part=most is not None):
                    place = slice(end, end + len(truth))
                    features[place], labels[place], end = values, truth, place.stop
                    done += len(truth)
                    self.computed += len(truth)
                    shown.update(done)
                    due = time.monotonic() - written > _SECONDS_A_PART or features[begin:end].nbytes > _BYTES_A_PART
                    if due or end == last:
                        self._write(name, begin, features[begin:end], labels[begin:end])
                        begin, written = end, time.monotonic()
        return features, labels

    def _computed(
        self, split: str, evaluator: Evaluator, *, first: int, last: int, in_part: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Computes the features and labels of the examples from `first`, which begins a batch, to `last`."""
        size = self._plan.recipe.batch_size
        skipped = first // size
        data = distribute(self._strategy, self._plan.eval_data(split, skip_batches=skipped, in_part=in_part))
        return evaluator.parts(data, batches=-(-last // size) - skipped)

    def _write(self, name: str, first: int, features: np.ndarray, labels: np.ndarray) -> None:
        self._plan.check_owner()
        storage.make_folder(self._folder)
        content = io.BytesIO()
        np.savez(content, name=np.array(name), first=np.array(first), features=features, labels=labels)
        storage.write_atomically(storage.join(self._folder, f"{name}-{first:09d}.npz"), content.getvalue(), shared=True)

    def _listed(self, name: str) -> list[tuple[str, int]]:
        """Lists the parts of that name, and which example each begins with."""
        found = []
        for folder in dict.fromkeys((self._known, self._folder)):
            with contextlib.suppress(FileNotFoundError):
                for entry in storage.list_folder(folder):
                    if of_name := re.fullmatch(rf"{name}-([0-9]+)\.npz", entry.name):
                        found.append((storage.join(folder, entry.name), int(of_name[1])))
        return found

    def _made_of(self, split: str) -> dict[str, Any]:
        """Returns all that a split's features depend on, to the bit."""
        plan, recipe = self._plan, self._plan.recipe
        weights = hashlib.sha256()
        for variable in self._classifier.backbone.variables:
            weights.update(variable.path.encode())
            weights.update(np.ascontiguousarray(variable.numpy()).tobytes())
        return {
            "shards": [shard.sha256 for shard in plan.data.manifest.shards(split)],
            "backbone": recipe.backbone,
            "weights": weights.hexdigest(),
            "pooling": recipe.head.pooling,
            "sizes": [recipe.image_size, recipe.resize_to],
            "view": dataclasses.asdict(recipe.view),
            "preprocess": backbone_info(recipe.backbone).preprocess,
            "rounded": recipe.augment.on_accelerator,
            "cache": "device" if plan.resident else "host",
            "precision": keras.config.dtype_policy().name,
            "batches": [recipe.batch_size, self._strategy.num_replicas_in_sync],
            "devices": sorted(
                {tf.DeviceSpec.from_string(d).device_type for d in self._strategy.extended.worker_devices}
            ),
            "versions": [tf.__version__, keras.__version__],
        }


def digest(made_of: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that stand for plain JSON values."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _read(file: str, name: str, first: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads a part, features and labels; None, with a warning, if it is damaged or not what its name says."""
    try:
        with np.load(io.BytesIO(storage.read(file))) as arrays:
            if (str(arrays["name"]), int(arrays["first"])) != (name, first):
                raise ValueError("it holds other features than its name says")
            return arrays["features"], arrays["labels"]  # their checksums are compared
    except _DAMAGES as error:
        logging.warning("%s: damaged (%s); its features are computed anew", file, first_line(error))
        return None


def _gaps(known: np.ndarray) -> list[tuple[int, int]]:
    """Lists the stretches (first, last + 1) of what is not known, of bool [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], known, [True]]).astype(int)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
