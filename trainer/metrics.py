"""metrics.jsonl, metrics.csv and TensorBoard events of a run; the JSON lines are the record."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import tensorflow as tf
from etils import epath

from pipeline.format.storage import write_atomically

_COLUMNS = ("step", "epoch", "phase", "split", "loss", "accuracy", "learning_rate")


class MetricsLog:
    """Rows with nothing in them that depends on the clock, so that a resumed run writes the same file."""

    def __init__(self, run: epath.Path, *, writes: bool = True) -> None:
        """`writes`: False keeps the rows in memory only, for a worker that is not the chief."""
        self._run, self._writes = run, writes
        self._file = run / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = []
        self._events = tf.summary.create_file_writer(str(run / "events")) if writes else tf.summary.create_noop_writer()

    def rewind(self, rows: int) -> None:
        """Keeps the first `rows` rows that an earlier attempt wrote: what came after the checkpoint is done again."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.rows = [json.loads(line) for line in lines[:rows]]

    def add(self, **row: Any) -> None:
        """Adds a row of `_COLUMNS` and writes the files."""
        self.rows.append(row)
        if not self._writes:
            return
        write_atomically(self._file, "".join(json.dumps(r) + "\n" for r in self.rows))
        table = io.StringIO()
        writer = csv.DictWriter(table, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self._run / "metrics.csv", table.getvalue())
        with self._events.as_default(step=row["step"]):
            for name in ("loss", "accuracy", "learning_rate"):
                if name in row:
                    tf.summary.scalar(f"{name}/{row['split']}", row[name])
        self._events.flush()

    def show_images(self, name: str, images: tf.Tensor, *, step: int) -> None:
        """Writes images ([B, H, W, 3], of any range) to TensorBoard, each stretched to 0..1."""
        low = tf.reduce_min(images, axis=(1, 2, 3), keepdims=True)
        high = tf.reduce_max(images, axis=(1, 2, 3), keepdims=True)
        with self._events.as_default(step=step):
            tf.summary.image(name, (images - low) / tf.maximum(high - low, 1e-6), max_outputs=len(images))
