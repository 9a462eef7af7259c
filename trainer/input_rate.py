"""Is the accelerator waiting for the input pipeline?"""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf

from pipeline.dataset import HostSlice

# Training within this share of what the input alone delivers is waiting for it: both rates are noisy.
_STARVING = 0.8


def images_per_second(
    make_dataset: Callable[[HostSlice], tf.data.Dataset], *, batch_size: int, seconds: float
) -> float:
    """What the input pipeline delivers on this host when nothing else runs, after its first batch.

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


def advice(*, training: float, input_alone: float) -> str | None:
    """A warning if training, in images/s, is held up by an input pipeline that delivers `input_alone`; else None."""
    if not input_alone or training < _STARVING * input_alone:
        return None
    return (
        f"training runs at {training:.0f} images/s, the input alone delivers {input_alone:.0f}: the device "
        "waits for its input. More host cores help, smaller images (--max_side of the build), or less augmentation"
    )
