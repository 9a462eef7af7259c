"""Saves and reads resumable training state (checkpoints/state) and the selected weights (checkpoints/best.npz)."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.command import UsageError, first_line
from pipeline.format import storage
from trainer.models import Classifier

_KEEP = 2  # the newest may turn out to be damaged
_PROGRESS_KEY = "progress/.ATTRIBUTES/VARIABLE_VALUE"
_BEST_FILE = "best.npz"


class StateCheckpoint:
    """Saves and restores everything that the next step depends on. `progress` is a JSON value of the loop's."""

    def __init__(self, directory: storage.Path) -> None:
        self._directory = storage.join(directory, "state")
        with tf.device("CPU"):
            self._progress = tf.Variable("", dtype=tf.string, trainable=False)

    def _manager(self, state: Mapping[str, Any]) -> tf.train.CheckpointManager:
        checkpoint = tf.train.Checkpoint(progress=self._progress, **state)
        return tf.train.CheckpointManager(checkpoint, self._directory, max_to_keep=_KEEP)

    def save(self, progress: Mapping[str, Any], state: Mapping[str, Any], *, number: int) -> None:
        """Writes a checkpoint; `state` is what `training_state` returned, `number` grows from save to save."""
        self._progress.assign(json.dumps(progress))
        self._manager(state).save(checkpoint_number=number)

    def candidates(self) -> list[tuple[str, dict[str, Any]]]:
        """Lists (path, progress) of every readable checkpoint, newest first; skips damaged ones with a warning."""
        listed = tf.train.get_checkpoint_state(self._directory)
        found = []
        for path in reversed(listed.all_model_checkpoint_paths if listed else []):
            try:
                text = tf.train.load_checkpoint(path).get_tensor(_PROGRESS_KEY)
                found.append((path, json.loads(text.decode())))
            except (tf.errors.OpError, ValueError, LookupError) as error:
                logging.warning("checkpoint %s is damaged, trying the one before: %s", path, first_line(error))
        return found

    def restore(self, path: str, state: Mapping[str, Any]) -> bool:
        """Reads `state` back; returns False, with a warning, if the checkpoint is damaged."""
        try:
            tf.train.Checkpoint(progress=self._progress, **state).restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, ValueError, LookupError, AssertionError) as error:
            logging.warning("checkpoint %s is damaged, trying the one before: %s", path, first_line(error))
            return False
        return True


def training_state(
    classifier: Classifier, optimizers: list[keras.optimizers.Optimizer], average: list[tf.Variable]
) -> dict[str, Any]:
    """Returns the trackable objects of one phase, keyed by role."""
    return {
        "model": {v.path: v.value for v in [*classifier.backbone.variables, *classifier.head.variables]},
        # By position: Keras numbers its optimizers' names by how many the process has made.
        "optimizers": [[v.value for v in optimizer.variables] for optimizer in optimizers],
        "average": average,
    }


def save_best(directory: storage.Path, classifier: Classifier) -> None:
    """Writes the model's weights to best.npz in `directory`, one array for each variable's path."""
    buffer = io.BytesIO()
    variables = [*classifier.backbone.variables, *classifier.head.variables]
    np.savez(buffer, **{variable.path: variable.numpy() for variable in variables})
    storage.make_folder(directory)
    storage.write_atomically(storage.join(directory, _BEST_FILE), buffer.getvalue())


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
