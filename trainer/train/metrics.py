"""Tells how a run goes: metrics.jsonl (the record), metrics.csv, TensorBoard events."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import Any

import tensorflow as tf

from pipeline.command import UsageError
from pipeline.format import storage
from trainer.recipes.recipe import SELECTION_METRICS

TRAIN_SAMPLE = "train_sample"  # the split of rows about training images that are looked at as validation's are
CROSS_VALIDATION = "cross_validation"  # of rows about training images by heads that had not seen them
_COLUMNS = ("step", "epoch", "phase", "split", "examples", *SELECTION_METRICS, "learning_rate")


_OF_ROWS = ".metrics"  # ends the names of event files that `rewind` writes anew


class MetricsLog:
    """Keeps rows in which nothing depends on the clock, so that a resumed run writes the same file.

    Its event files say the same as its rows: TensorBoard would show the steps twice that a resumed run does again.
    """

    def __init__(self, run: storage.Path, *, writes: bool = True) -> None:
        """Opens the log of `run`; `writes=False` keeps the rows in memory only, for a worker that is not the chief."""
        self._run, self._writes = run, writes
        self._file = storage.join(run, "metrics.jsonl")
        self.rows: list[dict[str, Any]] = []
        self._folder = storage.join(run, "events")
        self._events = tf.summary.create_noop_writer()

    def rewind(self, rows: int) -> None:
        """Keeps the first `rows` rows that an earlier attempt wrote: what came after the checkpoint is done again.

        Raises:
          UsageError: the file does not hold them any more.
        """
        lines = storage.read_text(self._file).splitlines() if storage.exists(self._file) else []
        try:
            self.rows = [json.loads(line) for line in lines[:rows]]
        except ValueError as error:
            raise UsageError(f"{self._file}: damaged ({error}); put it back, or take another --run") from error
        if len(self.rows) < rows:
            raise UsageError(
                f"{self._file}: {len(self.rows)} rows, but the run's checkpoint has seen {rows}; put the file back, or "
                "take another --run"
            )
        if not self._writes:
            return
        self._events.close()
        with contextlib.suppress(FileNotFoundError):
            for entry in storage.list_folder(self._folder):
                if entry.name.endswith(_OF_ROWS):
                    storage.delete(storage.join(self._folder, entry.name))
        self._events = tf.summary.create_file_writer(self._folder, filename_suffix=_OF_ROWS)
        for row in self.rows:
            self._show(row)

    def add(self, **row: Any) -> None:
        """Adds a row of `_COLUMNS` and writes the files."""
        self.rows.append(row)
        if not self._writes:
            return
        storage.write_atomically(self._file, "".join(json.dumps(r) + "\n" for r in self.rows))
        table = io.StringIO()
        writer = csv.DictWriter(table, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        storage.write_atomically(storage.join(self._run, "metrics.csv"), table.getvalue())
        self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        with self._events.as_default(step=row["step"]):
            for name in (*SELECTION_METRICS, "learning_rate"):
                if name in row:
                    tf.summary.scalar(f"{name}/{row['split']}", row[name])
        self._events.flush()

    def show_images(self, name: str, images: tf.Tensor, *, step: int) -> None:
        """Writes images ([B, H, W, 3], of any range) to TensorBoard, each stretched to 0..1."""
        if not self._writes:
            return
        low = tf.reduce_min(images, axis=(1, 2, 3), keepdims=True)
        high = tf.reduce_max(images, axis=(1, 2, 3), keepdims=True)
        with tf.summary.create_file_writer(self._folder).as_default(step=step):
            tf.summary.image(name, (images - low) / tf.maximum(high - low, 1e-6), max_outputs=len(images))
