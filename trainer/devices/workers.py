"""Joins several processes to train one model: what they agree on, and what if one of them dies.

Every worker computes the same: batches are shared out, gradients and evaluation results are exchanged. Only the chief
writes. `--run` must be one folder that all of them read, because they resume from the chief's checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.command import TryAgainError, UsageError

# What TensorFlow raises when another process, which it works with, is gone.
GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


class Workers:
    """Stands for the processes that run this program together under one strategy, often just this one.

    Attributes:
      count: how many. A TPU slice has one, however many hosts it has.
      machines: how many machines their devices are on.
      is_chief: whether this process is the one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.count = 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self.count = sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))
        # A device's name begins with the machine that it is on: /job:worker/replica:0/task:1/…
        machines = {device.partition("/device:")[0] for device in strategy.extended.worker_devices}
        self.machines = max(self.count, len(machines))
        self.is_chief: bool = strategy.extended.should_checkpoint
        self._gather = tf.function(lambda values: strategy.gather(values, axis=0))

    def gather(self, value: int) -> list[int]:
        """Returns every replica's worker's `value`, the same list to all. All must call it: it waits for the last."""
        if self.count == 1:
            return [value]
        own = self._strategy.experimental_distribute_values_from_function(lambda _: tf.constant([value], tf.int64))
        return self._gather(own).numpy().tolist()

    def from_chief(self, values: np.ndarray) -> np.ndarray:
        """Returns the chief's `values`, an array of one shape and type on all workers. All must call it."""
        if self.count == 1:
            return values
        own = self._strategy.experimental_distribute_values_from_function(lambda _: tf.constant(values[np.newaxis]))
        return self._gather(own).numpy()[0]  # in the order of workers, of which the chief is the first

    def wait(self) -> None:
        """Waits until all workers have come here."""
        self.gather(0)

    def require_same(self, value: Any, *, what: str) -> None:
        """Waits for all workers; raises UsageError on all of them if `value` (plain JSON) differs between them."""
        if len(set(self.gather(zlib.crc32(json.dumps(value, sort_keys=True).encode())))) > 1:
            raise UsageError(
                f"{what} must be the same for all workers of TF_CONFIG; compare their logs (here: {str(value)[:500]})"
            )

    @contextlib.contextmanager
    def or_try_again(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another worker is gone into a TryAgainError."""
        try:
            yield
        except GONE as error:
            if self.machines == 1:
                raise
            raise TryAgainError(
                f"another machine is gone, its own log says why ({type(error).__name__}); start the same command again "
                "on all of them to go on from the newest checkpoint"
            ) from error
