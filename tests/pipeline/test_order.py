"""Tests the order of an epoch: every record once, from lanes of equal parts, well mixed, small until asked for."""

import tracemalloc

import numpy as np
import pytest

from pipeline.order import EpochOrder, file_order


def order_of(counts, *, batch=16, window=1000, seed=3, epoch=4):
    return EpochOrder(counts=tuple(counts), batch_size=batch, window=window, seed=seed, epoch=epoch)


def sequence(order):
    positions, valid = order.batches_of_positions()
    return positions[valid]


@pytest.mark.parametrize("counts", [[5], [7, 0, 3], [40] * 20, [33, 1, 50, 17] * 9, [1] * 70, [0, 3]])
@pytest.mark.parametrize("window", [1, 10, 10_000])
@pytest.mark.parametrize("batch", [1, 6, 16, 64, 1024])
def test_every_record_comes_exactly_once(counts, window, batch):
    order = order_of(counts, window=window, batch=batch)
    positions, valid = order.batches_of_positions()
    assert positions.shape == (-(-sum(counts) // batch), batch)
    np.testing.assert_array_equal(np.sort(positions[valid]), np.arange(sum(counts)))
    assert valid[:-1].all()
    assert set(positions.ravel()) <= set(range(sum(counts)))  # what fills the last batch


@pytest.mark.parametrize(
    ("shards", "batch", "lanes"), [(1, 64, 1), (20, 48, 16), (20, 8, 8), (1000, 1024, 256), (20, 7, 1), (255, 96, 32)]
)
def test_lanes_are_a_power_of_two_that_divides_the_batch(shards, batch, lanes):
    assert order_of([100] * shards, batch=batch).lanes == lanes


def test_a_batch_takes_an_equal_part_of_each_lane_and_a_lane_reads_few_shards():
    order = order_of([50] * 64, batch=32)
    positions, _ = order.batches_of_positions()
    assert (order.lanes, order.part) == (32, 1)
    shard_of = np.empty(64, np.int64)
    shard_of[order.shards] = np.arange(64)  # a shard's place among those that are read
    for lane in range(32):
        own = positions[:, lane * order.part : (lane + 1) * order.part]
        assert set(shard_of[own.ravel() // 50]) == {2 * lane, 2 * lane + 1}


def test_the_order_is_a_function_of_seed_and_epoch():
    def run(seed, epoch):
        return sequence(order_of([100] * 10, seed=seed, epoch=epoch)).tolist()

    assert run(0, 0) == run(0, 0)
    assert len({tuple(run(s, e)) for s in range(4) for e in range(4)}) == 16


def test_a_full_window_is_a_fair_shuffle():
    """Over many epochs every record is as likely at the first place as at any other (chi-square, 99.9 %)."""
    places = [sequence(order_of([10, 10], window=20, batch=1, seed=0, epoch=e)).tolist().index(7) for e in range(4000)]
    counts = np.bincount(places, minlength=20)
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 43.8  # chi2.ppf(0.999, 19)


def test_neighbours_in_a_shard_are_torn_apart_even_by_small_windows():
    result = sequence(order_of([500] * 32, window=8192, seed=1, epoch=0, batch=64))
    assert np.mean(np.abs(np.diff(result)) == 1) < 0.02


def test_a_hundred_million_records_cost_what_their_shards_cost():
    rng = np.random.default_rng(0)
    counts = rng.binomial(100_000_000, 1 / 65_536, 65_536).tolist()
    tracemalloc.start()
    order = order_of(counts, batch=4096, window=8192)
    assert len(order.shards) == 65_536
    assert order.bounds[-1] == order.shard_starts[-1] == sum(counts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_without_shuffling_a_lane_is_in_file_order():
    order = EpochOrder(counts=(5, 7, 4, 6), batch_size=4, window=3, seed=0, epoch=0, shuffled=False)
    positions, valid = order.batches_of_positions()
    assert order.lanes == 4
    lanes = [column[keep].tolist() for column, keep in zip(positions.T, valid.T, strict=True)]
    assert lanes == [list(range(0, 5)), list(range(5, 11)), list(range(11, 16)), list(range(16, 22))]


def test_file_order_is_padded_with_the_first():
    positions, valid = file_order(5, 3)
    assert positions.tolist() == [[0, 1, 2], [3, 4, 0]]
    assert valid.tolist() == [[True] * 3, [True, True, False]]
