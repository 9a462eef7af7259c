"""Defines the order of an epoch: a pure function of (seed, epoch) and of the shard sizes.

Shards are read from start to end, because object stores make random reads slow. So an epoch is: shards in random
order, `INTERLEAVE` of them read side by side, and the resulting stream permuted inside windows as large as memory
allows. Shards already hold their records in the order of a hash, so what a window holds is a fair sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.augment.random_bits import mix_numpy, stream_key

INTERLEAVE = 16  # shards read side by side
BLOCK = 16  # records taken from a shard before the next one's turn; one at a time costs reading speed


def _keys(count: int, *, seed: int, epoch: int, purpose: str) -> np.ndarray:
    key = np.uint64(stream_key(seed=seed, epoch=epoch, purpose=purpose))
    return mix_numpy(np.arange(count, dtype=np.uint64) ^ key)


def shard_order(num_shards: int, *, seed: int, epoch: int) -> np.ndarray:
    """Lists the shards in the order in which an epoch reads them, int64 `[num_shards]`."""
    return np.argsort(_keys(num_shards, seed=seed, epoch=epoch, purpose="shards"), kind="stable")


def stream_order(counts: Sequence[int], *, seed: int, epoch: int) -> np.ndarray:
    """Lists the records as they come from the reader, before the windows are permuted.

    Args:
      counts: records in each shard.

    Returns:
      int64 `[sum(counts)]`: positions in file order (shard by shard).
    """
    starts = np.concatenate([[0], np.cumsum(counts)])
    parts = []
    shards = shard_order(len(counts), seed=seed, epoch=epoch)
    for first in range(0, len(shards), INTERLEAVE):
        group = shards[first : first + INTERLEAVE]
        records = np.concatenate([starts[s] + np.arange(counts[s]) for s in group])
        turns = np.concatenate([np.arange(counts[s]) // BLOCK for s in group])
        ranks = np.concatenate([np.full(counts[s], rank) for rank, s in enumerate(group)])
        parts.append(records[np.lexsort((records, ranks, turns))])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def window_permutation(count: int, *, window: int, seed: int, epoch: int) -> np.ndarray:
    """Permutes stream positions inside their windows: int64 `[count]`, which position comes at each place."""
    keys = _keys(count, seed=seed, epoch=epoch, purpose="windows")
    return np.lexsort((keys, np.arange(count) // window))


def epoch_order(counts: Sequence[int], *, window: int, seed: int, epoch: int) -> np.ndarray:
    """Lists every record's position in file order, once, in the order of training: int64 `[sum(counts)]`."""
    stream = stream_order(counts, seed=seed, epoch=epoch)
    return stream[window_permutation(len(stream), window=window, seed=seed, epoch=epoch)]
