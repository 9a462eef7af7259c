"""Defines the order of an epoch: a function of (seed, epoch), the shard sizes and the batch, for any number of hosts.

Shards are read from start to end, because object stores make random reads slow, and no host should read what another
one feeds. So the shards, in random order, are cut into lanes of equally many records. Every global batch takes an equal
part from each lane, and a host owns some lanes whole. Inside a lane, windows are permuted, each when it is reached, as
large as memory allows. Shards already hold their records in the order of a hash, so what a window holds is a fair
sample, and a batch holds parts of as many shards as there are lanes.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from pipeline.augment.random_bits import mix_numpy, stream_key

MOST_LANES = 256


def _keys(positions: np.ndarray, *, seed: int, epoch: int, purpose: str) -> np.ndarray:
    key = np.uint64(stream_key(seed=seed, epoch=epoch, purpose=purpose))
    return mix_numpy(positions.astype(np.uint64) ^ key)


def shard_order(num_shards: int, *, seed: int, epoch: int) -> np.ndarray:
    """Lists the shards in the order in which an epoch reads them, int64 `[num_shards]`."""
    return np.argsort(_keys(np.arange(num_shards), seed=seed, epoch=epoch, purpose="shards"), kind="stable")


def file_order(examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists the records of every batch in file order, as `EpochOrder.batches_of_positions` does in that of training."""
    count = -(-examples // batch_size) * batch_size
    valid = np.arange(count) < examples
    return np.resize(np.arange(examples), count).reshape(-1, batch_size), valid.reshape(-1, batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Says which record comes when in one epoch; takes memory by the number of shards until all of it is asked for.

    Attributes:
      counts: records in each shard, in file order.
      batch_size: global.
      window: records that are shuffled together, over all lanes; fewer where a lane is shorter.
      seed, epoch: what the order is drawn from.
      shuffled: False leaves shards and records in file order, inside of each lane.
    """

    counts: tuple[int, ...]
    batch_size: int
    window: int
    seed: int
    epoch: int
    shuffled: bool = True

    @functools.cached_property
    def examples(self) -> int:
        return sum(self.counts)

    @functools.cached_property
    def lanes(self) -> int:
        """Counts the lanes: a power of two that divides the batch, at most one a shard."""
        most = max(1, min(len(self.counts), self.examples, MOST_LANES))
        return math.gcd(1 << most.bit_length() - 1, self.batch_size)

    @property
    def part(self) -> int:
        """Counts the records that a batch takes from each lane."""
        return self.batch_size // self.lanes

    @property
    def batches(self) -> int:
        return -(-self.examples // self.batch_size)

    @property
    def lane_window(self) -> int:
        return max(1, self.window // self.lanes)

    @functools.cached_property
    def shards(self) -> np.ndarray:
        """Lists the shards as they are read, int64 `[S]`."""
        if not self.shuffled:
            return np.arange(len(self.counts))
        return shard_order(len(self.counts), seed=self.seed, epoch=self.epoch)

    @functools.cached_property
    def shard_starts(self) -> np.ndarray:
        """Lists at which record, in the order of `shards`, each shard begins, and the end, int64 `[S + 1]`."""
        return np.concatenate([[0], np.cumsum(np.array(self.counts, np.int64)[self.shards])])

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """Lists at which record, in the order of `shards`, each lane begins, and the end, int64 `[lanes + 1]`."""
        return np.arange(self.lanes + 1, dtype=np.int64) * self.examples // self.lanes

    @property
    def window_key(self) -> int:
        """Returns the key whose mix with a record's place in the order of `shards` ranks it inside its window."""
        return stream_key(seed=self.seed, epoch=self.epoch, purpose="windows")

    def starts(self, lanes: range, *, skip_batches: int) -> dict[str, np.ndarray]:
        """Says where lanes go on after so many batches: at the window that is reached, in the shard that holds it.

        Returns:
          int64 columns `[len(lanes)]`: "begin" of the lane and its "size", records; the "window" reached, and how many
          records are "within" it before the first one wanted; "first_shard" and "last_shard" of those left, in order
          of `shards`; how many records come "before" in the first shard, and the "count" to be read from there.
        """
        begins, ends = self.bounds[lanes.start : lanes.stop], self.bounds[lanes.start + 1 : lanes.stop + 1]
        skipped = skip_batches * self.part
        windows = np.minimum(skipped, ends - begins - 1) // self.lane_window
        reached = begins + windows * self.lane_window
        first = np.searchsorted(self.shard_starts, reached, side="right") - 1
        return {
            "begin": begins,
            "size": ends - begins,
            "window": windows,
            "within": skipped - windows * self.lane_window,
            "first_shard": first,
            "last_shard": np.searchsorted(self.shard_starts, ends, side="left") - 1,
            "before": reached - self.shard_starts[first],
            "count": ends - reached,
        }

    def batches_of_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Lists every record, in memory.

        Returns:
          int64 `[batches, batch_size]`: positions in file order (shard by shard); bool of the same shape: False for
          those that only fill the last batch, records of the same epoch that have come before.
        """
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        stream = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in self.shards])
        parts = [self._lane(lane, stream) for lane in range(self.lanes)]
        positions, valid = (np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))
        return positions.reshape(self.batches, -1), valid.reshape(self.batches, -1)

    def _lane(self, lane: int, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lists a lane's records, `[batches, part]`, and which of them count."""
        begin, end = self.bounds[lane : lane + 2]
        size, total = int(end - begin), self.batches * self.part
        order = np.arange(size)
        if self.shuffled:
            keys = _keys(np.arange(begin, end), seed=self.seed, epoch=self.epoch, purpose="windows")
            order = np.lexsort((keys, order // self.lane_window))
        last = order[(size - 1) // self.lane_window * self.lane_window :]
        padded = np.concatenate([order, np.resize(last, len(last) + total - size)[len(last) :]])
        valid = np.arange(total) < size
        return stream[begin:end][padded].reshape(-1, self.part), valid.reshape(-1, self.part)
