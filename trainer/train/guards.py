"""Stops a run that is lost, and warns of one that waits: damaged records, a loss that is no number, a slow input."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline.batching import HostSlice
from pipeline.command import CommandError, DataError
from pipeline.decode import why_unusable
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.verify import problems
from trainer.train.plan import Plan, Position

# Training within this share of what the input alone delivers is waiting for it: both rates are noisy.
_STARVING = 0.8


@contextlib.contextmanager
def named_errors(data: DatasetVersion, split: str) -> Iterator[None]:
    """Turns a reading or decoding error of TensorFlow into a DataError that names the shard and the record.

    TensorFlow's own errors name neither, so the split is searched for the culprit, once something has failed.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        logging.warning("%s failed (%s); looking for the damaged record", split, error.message.splitlines()[0])
        first = next(problems(data, split, why_unusable), None)
        if first is None:
            raise
        raise DataError(
            f"{first}; `python -m pipeline.verify {data.path}` lists all, --skip_bad_records trains without them"
        ) from error


def check_finite(losses: np.ndarray, position: Position, plan: Plan, *, keep_batch: bool) -> None:
    """Raises a CommandError that names the step if a loss is no finite number.

    Args:
      losses: float32 [n], of the steps from `position` on.
      position: before those steps.
      plan: of the run.
      keep_batch: whether to write the step's batch to the run, as bad_batch.npz.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if not bad.size:
        return
    phase = plan.recipe.phases[position.phase]
    step = position.step + int(bad[0])
    saved = ""
    if keep_batch and not phase.cached_features:
        epoch, skip = divmod(step, plan.steps_per_epoch)
        epoch += plan.first_epoch(position.phase)
        batches = plan.with_images().train_data(epoch=epoch, skip_batches=skip, augment=phase.augment)(HostSlice())
        file = io.BytesIO()
        np.savez(file, **next(batches.as_numpy_iterator()))
        storage.write_atomically(storage.join(plan.run, "bad_batch.npz"), file.getvalue())
        saved = f" (its batch: {storage.join(plan.run, 'bad_batch.npz')})"
    raise CommandError(
        f"the loss became {losses[bad[0]]} in phase {phase.name} at step {step + 1}{saved}; "
        f"lower lr_max (it is {phase.lr_max:g}) or set optimizer.clip_norm=1"
    )


def images_per_second(
    make_dataset: Callable[[HostSlice], tf.data.Dataset], *, batch_size: int, seconds: float
) -> float:
    """Measures what the input pipeline delivers on this host when nothing else runs, after its first batch.

    Args:
      make_dataset: as in `Plan.train_data`; at most one epoch is read.
      batch_size: images in a batch.
      seconds: how long to measure, at most.
    """
    batches = iter(make_dataset(HostSlice()))
    next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += batch_size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def starvation(*, training: float, input_alone: float) -> str | None:
    """Returns a warning if `training`, in images/s, waits for an input that delivers `input_alone`; else None."""
    if not input_alone or training < _STARVING * input_alone:
        return None
    return (
        f"training runs at {training:.0f} images/s, the input alone delivers {input_alone:.0f}: the device "
        "waits for its input. More host cores help, smaller images (--max_side of the build), or less augmentation"
    )
