"""Saves and reads resumable training state (checkpoints/state) and the selected weights (checkpoints/best.npz).

Training waits for the copy of the variables to the host, not for the files, which a thread writes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.command import UsageError, first_line
from pipeline.format import storage
from trainer.models.classifier import Classifier
from trainer.train.selection import Outcomes

_KEEP = 2  # the newest may turn out to be damaged
_PROGRESS_KEY = "progress/.ATTRIBUTES/VARIABLE_VALUE"
_BEST_FILE = "best.npz"
_HEAD_FILE = "head.npz"  # as best.npz; gone when the run has decided
_OUTCOMES = "validation:"  # begins names of arrays that are no weights


class Snapshot:
    """Copies variables to the host, all of them in one call."""

    def __init__(self, variables: Any) -> None:
        """Takes variables in any nesting of lists and dicts."""
        self.variables = variables
        with tf.device("CPU:0"):
            self._host = tf.constant(0).device  # in full: a slice's other hosts have a "CPU:0", too
        self._copy = tf.function(self._copies)

    def _copies(self) -> Any:
        with tf.device(self._host):
            return tf.nest.map_structure(tf.identity, self.variables)

    def __call__(self) -> Any:
        """Returns tensors in the same nesting, which later assignments leave as they are."""
        return self._copy()


class Checkpoints:
    """Saves and restores everything that the next step depends on, and saves the selected weights.

    One write is on its way at most: another waits for its end, and raises what made it fail.

    Attributes:
      seconds: that the last finished write took.
    """

    def __init__(
        self,
        directory: storage.Path,
        *,
        writing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Prepares to read and write there.

        Args:
          directory: RUN/checkpoints.
          writing: opens the block in which the thread writes.
        """
        self._directory, self._guarded = directory, writing
        self._states = storage.join(directory, "state")
        # The interpreter waits at its end for what is still to be written.
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future[float] | None = None
        self.seconds = 0.0

    def save(self, progress: Mapping[str, Any], snapshot: Snapshot, *, number: int) -> None:
        """Begins to write a checkpoint.

        Args:
          progress: a JSON value of the loop's.
          snapshot: of what `training_state` returned.
          number: grows from save to save.
        """
        self.wait()
        self._submit(self._write, json.dumps(progress), snapshot(), number)

    def save_best(self, weights: Snapshot, outcomes: Outcomes | None = None) -> None:
        """Begins to write best.npz: an array for each name of the snapshot, which is of `model_weights`, and outcomes.

        Args:
          weights: to be kept.
          outcomes: of validation by these weights, where there is one.
        """
        self._begin(_BEST_FILE, weights, outcomes)

    def save_head(self, weights: Snapshot, outcomes: Outcomes) -> None:
        """Begins to write what `save_best` does to a file beside best.npz, for `keep_head`."""
        self._begin(_HEAD_FILE, weights, outcomes)

    def _begin(self, name: str, weights: Snapshot, outcomes: Outcomes | None) -> None:
        self.wait()
        arrays = {_OUTCOMES + field: value for field, value in vars(outcomes).items()} if outcomes else {}
        self._submit(self._write_weights, name, weights(), arrays)

    def _submit(self, write: Callable[..., float], *values: Any) -> None:
        def guarded() -> float:
            with self._guarded():
                return write(*values)

        self._writing = self._writer.submit(guarded)

    def keep_head(self) -> None:
        """Makes the weights of `save_head` the selected ones."""
        self.wait()
        content = storage.read(storage.join(self._directory, _HEAD_FILE))
        storage.write_atomically(storage.join(self._directory, _BEST_FILE), content)

    def remove_head(self) -> None:
        """Removes the weights of `save_head`, if there are any."""
        storage.delete(storage.join(self._directory, _HEAD_FILE))

    def best_outcomes(self) -> Outcomes | None:
        """Reads the outcomes of the weights saved last by `save_best`; None where none were saved with them."""
        return self._outcomes(_BEST_FILE)

    def head_outcomes(self) -> Outcomes | None:
        """Reads the outcomes of the weights of `save_head`; None if they are not there any more."""
        try:
            return self._outcomes(_HEAD_FILE)
        except FileNotFoundError:
            return None

    def _outcomes(self, name: str) -> Outcomes | None:
        self.wait()
        names = [field.name for field in dataclasses.fields(Outcomes)]
        with np.load(io.BytesIO(storage.read(storage.join(self._directory, name)))) as arrays:
            if _OUTCOMES + names[0] not in arrays:  # of a run that an earlier version began
                return None
            return Outcomes(**{name: arrays[_OUTCOMES + name] for name in names})

    def is_writing(self) -> bool:
        """Says whether a write is on its way; raises what made it fail."""
        if self._writing and not self._writing.done():
            return True
        self.wait()
        return False

    def wait(self) -> None:
        """Waits until all is written; raises what made it fail."""
        if self._writing:
            writing, self._writing = self._writing, None
            self.seconds = writing.result()

    def _write(self, progress: str, values: Mapping[str, Any], number: int) -> float:
        started = time.monotonic()
        with tf.device("CPU"):
            state = tf.nest.map_structure(lambda value: tf.Variable(value, trainable=False), values)
            checkpoint = tf.train.Checkpoint(progress=tf.Variable(progress, trainable=False), **state)
        manager = tf.train.CheckpointManager(checkpoint, self._states, max_to_keep=_KEEP)
        try:
            manager.save(checkpoint_number=number)
        except tf.errors.OpError:
            self._remove_halves()
            raise
        return time.monotonic() - started

    def _write_weights(self, name: str, weights: Mapping[str, tf.Tensor], outcomes: Mapping[str, np.ndarray]) -> float:
        started = time.monotonic()
        buffer = io.BytesIO()
        arrays = {path: value.numpy() for path, value in weights.items()}
        np.savez(buffer, **arrays | dict(outcomes))
        storage.make_folder(self._directory)
        storage.write_atomically(storage.join(self._directory, name), buffer.getvalue())
        return time.monotonic() - started

    def candidates(self) -> list[tuple[str, dict[str, Any]]]:
        """Lists (path, progress) of every readable checkpoint, newest first; skips damaged ones with a warning."""
        self._remove_halves()
        listed = tf.train.get_checkpoint_state(self._states)
        found = []
        for path in reversed(listed.all_model_checkpoint_paths if listed else []):
            try:
                text = tf.train.load_checkpoint(path).get_tensor(_PROGRESS_KEY)
                found.append((path, json.loads(text.decode())))
            except (tf.errors.OpError, ValueError, LookupError) as error:
                logging.warning("checkpoint %s is damaged, trying the one before: %s", path, first_line(error))
        return found

    def _remove_halves(self) -> None:
        """Removes what a write left that was killed or failed."""
        with contextlib.suppress(FileNotFoundError):
            for entry in storage.list_folder(self._states):
                if entry.name.endswith("_temp"):
                    storage.delete(storage.join(self._states, entry.name))

    def restore(self, path: str, snapshot: Snapshot) -> bool:
        """Reads the snapshot's variables back; returns False, with a warning, if the checkpoint is damaged."""
        with tf.device("CPU"):
            progress = tf.Variable("", dtype=tf.string, trainable=False)
        try:
            whole = tf.train.Checkpoint(progress=progress, **snapshot.variables)
            whole.restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, ValueError, LookupError, AssertionError) as error:
            logging.warning("checkpoint %s is damaged, trying the one before: %s", path, first_line(error))
            return False
        return True


def training_state(
    classifier: Classifier, optimizers: list[keras.optimizers.Optimizer], average: list[tf.Variable]
) -> dict[str, Any]:
    """Returns the trackable objects of one phase, keyed by role."""
    return {
        "model": model_weights(classifier),
        # By position: Keras numbers its optimizers' names by how many the process has made.
        "optimizers": [[v.value for v in optimizer.variables] for optimizer in optimizers],
        "average": average,
    }


def model_weights(classifier: Classifier) -> dict[str, tf.Variable]:
    """Returns the model's variables by their paths."""
    return {v.path: v.value for v in [*classifier.backbone.variables, *classifier.head.variables]}


def load_best(directory: storage.Path, classifier: Classifier) -> None:
    """Reads the selected weights into `classifier`.

    Raises:
      UsageError: there are none yet, or they do not fit (names the variable and both shapes).
    """
    file = storage.join(directory, _BEST_FILE)
    if not storage.exists(file):
        raise UsageError(
            f"{os.path.dirname(os.fspath(directory))}: no finished weights in this run yet; run trainer.main to its end"
        )
    with np.load(io.BytesIO(storage.read(file))) as arrays:
        for variable in [*classifier.backbone.variables, *classifier.head.variables]:
            if variable.path not in arrays or arrays[variable.path].shape != tuple(variable.shape):
                found = arrays[variable.path].shape if variable.path in arrays else "absent"
                raise UsageError(f"{file}: {variable.path} is {found}, the model has {tuple(variable.shape)}")
            variable.assign(arrays[variable.path])
