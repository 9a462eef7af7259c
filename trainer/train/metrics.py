"""Tells how a run goes: metrics.jsonl (the record), metrics.csv, TensorBoard events, and progress as it happens."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from typing import Any

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from pipeline.format import storage

_COLUMNS = ("step", "epoch", "phase", "split", "loss", "accuracy", "learning_rate")
_SECONDS_BETWEEN_LINES = 30.0


class MetricsLog:
    """Keeps rows in which nothing depends on the clock, so that a resumed run writes the same file."""

    def __init__(self, run: storage.Path, *, writes: bool = True) -> None:
        """Opens the log of `run`; `writes=False` keeps the rows in memory only, for a worker that is not the chief."""
        self._run, self._writes = run, writes
        self._file = storage.join(run, "metrics.jsonl")
        self.rows: list[dict[str, Any]] = []
        self._events = (
            tf.summary.create_file_writer(storage.join(run, "events")) if writes else tf.summary.create_noop_writer()
        )

    def rewind(self, rows: int) -> None:
        """Keeps the first `rows` rows that an earlier attempt wrote: what came after the checkpoint is done again."""
        lines = storage.read_text(self._file).splitlines() if storage.exists(self._file) else []
        self.rows = [json.loads(line) for line in lines[:rows]]

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


class Progress:
    """Shows the progress of one phase, counted in steps: a bar on a terminal, lines with rate and ETA in a log."""

    def __init__(self, *, phase: str, first_step: int, total_steps: int, batch_size: int) -> None:
        self._phase, self._total, self._batch_size = phase, total_steps, batch_size
        self._first, self._start, self._last_line = first_step, time.monotonic(), time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", desc=phase, leave=False)

    def update(self, *, step: int, epoch: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """Shows that `step` steps of the phase are done; the metrics are of the epoch so far."""
        seconds = time.monotonic() - self._start
        rate = (step - self._first) / max(seconds, 1e-9)
        text = (
            f"epoch {epoch} loss {loss:.4f} accuracy {accuracy:.4f} lr {learning_rate:.2e} "
            f"{rate * self._batch_size:.0f} img/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            remaining = (self._total - step) / max(rate, 1e-9)
            eta = tqdm.format_interval(remaining)
            logging.info("%s: step %d/%d, %s, ETA %s", self._phase, step, self._total, text, eta)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
