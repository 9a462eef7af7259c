import numpy as np
import pytest

from pipeline import order


@pytest.mark.parametrize("counts", [[5], [7, 0, 3], [40] * 20, [33, 1, 50, 17] * 9])
@pytest.mark.parametrize("window", [1, 10, 10_000])
def test_every_record_comes_exactly_once(counts, window):
    result = order.epoch_order(counts, window=window, seed=3, epoch=4)
    np.testing.assert_array_equal(np.sort(result), np.arange(sum(counts)))


def test_the_order_is_a_function_of_seed_and_epoch():
    def run(seed, epoch):
        return order.epoch_order([100] * 10, window=1000, seed=seed, epoch=epoch).tolist()

    assert run(0, 0) == run(0, 0)
    assert len({tuple(run(s, e)) for s in range(4) for e in range(4)}) == 16


def test_a_full_window_is_a_fair_shuffle():
    """Over many epochs every record is as likely at the first place as at any other (chi-square, 99.9 %)."""
    places = [order.epoch_order([10, 10], window=20, seed=0, epoch=e).tolist().index(7) for e in range(4000)]
    counts = np.bincount(places, minlength=20)
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 43.8  # chi2.ppf(0.999, 19)


def test_neighbours_in_a_shard_are_torn_apart_even_by_small_windows():
    result = order.epoch_order([500] * 32, window=512, seed=1, epoch=0)
    assert np.mean(np.abs(np.diff(result)) == 1) < 0.02
