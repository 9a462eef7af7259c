"""Holds all that a model answered to a split, and keeps it in a file: `predictions-<split>.npz`. NumPy only."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from pipeline.command import DataError, UsageError, first_line
from pipeline.format import kinds, storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Holds a model's answers to N images.

    Attributes:
      ids: of the records, hex.
      labels: int [N], the true ones; −1 where the model does not know the label.
      names: of the C labels.
      log_probabilities: float32 [N, C], nats; not probabilities, whose small ones float32 cannot hold.
      temperature: by which the logits were divided.
    """

    ids: Sequence[str]
    labels: np.ndarray
    names: Sequence[str]
    log_probabilities: np.ndarray
    temperature: float = 1.0

    def __post_init__(self) -> None:
        count, shape = len(self.ids), self.log_probabilities.shape
        if shape != (count, len(self.names)) or self.labels.shape != (count,):
            raise ValueError(
                f"{count} ids and {len(self.names)} names do not go with probabilities {shape} and labels "
                f"{self.labels.shape}"
            )

    @property
    def predicted(self) -> np.ndarray:
        """Returns the likeliest label of each image, int [N]."""
        return self.log_probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Returns its probability, float64 [N]."""
        return np.exp(self.log_probabilities.max(axis=1).astype(np.float64))

    @property
    def correct(self) -> np.ndarray:
        """Says which answers are right, bool [N]."""
        return self.predicted == self.labels

    def to_bytes(self) -> bytes:
        """Returns the file's content; equal predictions give equal bytes."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            ids=np.array(self.ids, "S64"),
            labels=self.labels.astype(np.int32),
            names=np.array(self.names, str),
            log_probabilities=self.log_probabilities.astype(np.float32),
            temperature=np.array(self.temperature),
        )
        return content.getvalue()


def predictions_file(run: storage.Path, split: str) -> str:
    """Names the file of a run's predictions."""
    return storage.join(run, f"predictions-{split}.npz")


def read_predictions(run: storage.Path, split: str) -> Predictions:
    """Reads a run's predictions on a split.

    Raises:
      UsageError: `run` is no finished run, or has no such split.
      DataError: the file is damaged.
    """
    file = predictions_file(run, split)
    try:
        content = storage.read(file)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file; {_why_absent(run)}") from error
    return from_bytes(content, file=file, again=f"python -m trainer.evaluate --model={storage.join(run, 'export')}")


def from_bytes(content: bytes, *, file: str, again: str) -> Predictions:
    """Reads what `Predictions.to_bytes` made.

    Args:
      content: of the file.
      file: its name, for the error.
      again: the command that makes it anew.

    Raises:
      DataError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return Predictions(
                ids=tuple(name.decode() for name in arrays["ids"].tolist()),
                labels=arrays["labels"],
                names=tuple(arrays["names"].tolist()),
                log_probabilities=arrays["log_probabilities"],
                temperature=float(arrays["temperature"]),
            )
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{file}: damaged ({first_line(error)}); {again} scores the model anew") from error


def _why_absent(run: storage.Path) -> str:
    """Says why a run may have no predictions on a split."""
    if not storage.exists(storage.join(run, "config.json")):
        return f"{kinds.no_run(os.fspath(run))}"
    splits = sorted(
        entry.name.removeprefix("predictions-").removesuffix(".npz")
        for entry in storage.list_folder(run)
        if entry.name.startswith("predictions-") and entry.name.endswith(".npz")
    )
    if splits:
        return f"the run has predictions on {' and '.join(splits)}"
    return (
        f"{run} is no finished run, or one of an earlier version of this package; python -m trainer.main "
        f"--run={run} with its --data and --recipe goes on with it"
    )
