"""Cuts records in order into each host's part of every global batch, the last one padded. Nothing is decoded here."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from pipeline import reader
from pipeline.command import UsageError
from pipeline.order import EpochOrder


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSlice:
    """Says which part of every global batch this host feeds: the `index`-th of `count` equal parts."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"host index must be in 0..{self.count - 1}, got {self.index}")

    def size(self, global_batch_size: int) -> int:
        """Counts this host's examples of a global batch; UsageError if the hosts cannot share it equally."""
        if global_batch_size < 1 or global_batch_size % self.count:
            raise UsageError(f"batch size {global_batch_size} must be a positive multiple of the {self.count} hosts")
        return global_batch_size // self.count


ONE_HOST = HostSlice()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """Cuts an epoch into batches.

    The batches that come out have columns `[b]` and "weight" float32 `[b]`: 1, or 0 for an example that pads the last
    batch. Their size b is unknown to the graph on purpose: from a static size Grappler would rewrite the arithmetic
    differently for a batch of one, and an example's augmentation would depend on the batch size in its last bit.

    Attributes:
      examples: in the epoch.
      global_batch_size: over all hosts.
      host: whose part to take.
      skip: batches to leave out at the start.
    """

    examples: int
    global_batch_size: int
    host: HostSlice = ONE_HOST
    skip: int = 0

    @property
    def size(self) -> int:
        """Counts the examples of a batch on this host."""
        return self.host.size(self.global_batch_size)

    @property
    def batches(self) -> int:
        """Counts the batches of the epoch, skipped ones included."""
        return -(-self.examples // self.global_batch_size)

    def lanes(self, order: EpochOrder) -> range:
        """Returns the lanes that this host reads; UsageError if the hosts cannot share batch or lanes out equally."""
        self.host.size(order.batch_size)
        if order.lanes % self.host.count:
            raise UsageError(
                f"{self.host.count} hosts cannot share {order.lanes} lanes out equally, which are what batch_size="
                f"{order.batch_size} and {len(order.counts)} shards allow (a power of two that divides the batch, at "
                "most one a shard): take fewer hosts, another batch_size, or a dataset of more shards"
            )
        each = order.lanes // self.host.count
        return range(self.host.index * each, (self.host.index + 1) * each)

    def from_memory(self, rows: dict[str, tf.Tensor], positions: np.ndarray, valid: np.ndarray) -> tf.data.Dataset:
        """Gathers this host's part of every batch.

        Args:
          rows: columns, in file order.
          positions: int64 `[batches, global_batch_size]`, which rows come when.
          valid: bool of the same shape, False for what only fills a batch.
        """
        own = slice(self.host.index * self.size, (self.host.index + 1) * self.size)
        weights = valid[self.skip :, own].astype(np.float32)
        chosen = tf.data.Dataset.from_tensor_slices((positions[self.skip :, own], weights))
        # Of an unknown size, see above.
        chosen = chosen.unbatch().batch(self.size)

        @tf.autograph.experimental.do_not_convert
        def gather(at: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
            return {**{name: tf.gather(column, at) for name, column in rows.items()}, "weight": weight}

        return chosen.map(gather)

    def from_lanes(self, stream: tf.data.Dataset, *, num_classes: int) -> tf.data.Dataset:
        """Parses what `reader.lane_stream` yields for this host's lanes."""

        @tf.autograph.experimental.do_not_convert
        def parse(serialized: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
            return {**reader.parse(serialized, num_classes=num_classes), "weight": weight}

        return stream.batch(self.size).map(parse)

    def from_stream(self, stream: tf.data.Dataset, *, num_classes: int) -> tf.data.Dataset:
        """Cuts a split's serialized records, without those of skipped batches, into the batches of the only host."""
        padded = stream.repeat().take((self.batches - self.skip) * self.size).batch(self.size).enumerate(self.skip)

        @tf.autograph.experimental.do_not_convert
        def parse(batch: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            places = batch * self.size + tf.range(self.size, dtype=tf.int64)
            return {
                **reader.parse(serialized, num_classes=num_classes),
                "weight": tf.cast(places < self.examples, tf.float32),
            }

        return padded.map(parse)
