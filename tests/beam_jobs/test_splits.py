import collections
import random

import pytest

from beam_jobs import splits
from beam_jobs.splits import SplitFractions
from pipeline.command import DataError, UsageError

THREE = SplitFractions.parse("train:0.8,validation:0.1,test:0.1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train:0.8,test:0.3", "add up to 1.1"),
        ("train", "name:fraction"),
        ("train:x", "name:fraction"),
        ("train:1/0", "name:fraction"),
        ("train:1.5,test:-0.5", "name:fraction"),
        ("train:0.5,train:0.5", "twice"),
        ("Train Set:1", "name:fraction"),
        ("", "name:fraction"),
    ],
)
def test_bad_fractions_are_refused_by_name(text, problem):
    with pytest.raises(UsageError, match=problem):
        SplitFractions.parse(text)


def test_decimal_fractions_add_up_exactly():
    # As binary floats, 0.7 + 0.2 + 0.1 is 0.9999999999999999.
    assert SplitFractions.parse("train:0.7,validation:0.2,test:0.1").names == ("train", "validation", "test")


def count(cuts, groups):
    sizes = collections.Counter()
    for position, size in groups:
        sizes[cuts.split(position)] += size
    return sizes


@pytest.mark.parametrize("number", [3, 4, 7, 10, 11, 99, 1000])
def test_by_rank_the_shares_are_exact_and_nobody_goes_without(number):
    groups = [(splits.position(str(i).encode(), seed=5), 1) for i in range(number)]
    sizes = count(splits.cuts_by_rank(groups, THREE), groups)
    assert sum(sizes.values()) == number
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert sizes[name] >= 1
        # Largest remainder: off by less than one, or by what the others needed to have one at all.
        assert abs(sizes[name] - share * number) < (1 if number >= 10 else 2)


@pytest.mark.parametrize("numbers", [(3, 12), (100, 300)])
def test_by_rank_groups_stay_whole_and_shares_come_close(numbers):
    rng = random.Random(1)
    for _ in range(100):
        groups = [(rng.randrange(splits.POSITIONS), rng.choice([1, 1, 2, 9])) for _ in range(rng.randint(*numbers))]
        total = sum(size for _, size in groups)
        sizes = count(splits.cuts_by_rank(groups, THREE), groups)
        assert all(sizes[name] >= 1 for name in THREE.names)
        if len(groups) >= 100:  # with few groups the last ones are dealt out by force
            assert abs(sizes["train"] - 0.8 * total) <= 9 / 2 + 1  # half the largest group, and rounding


def test_fewer_groups_than_splits_are_refused():
    with pytest.raises(DataError, match="2 distinct images for 3 splits"):
        splits.cuts_by_rank([(1, 5), (2, 1)], THREE)


def test_by_hash_the_fractions_hold_and_nothing_ever_moves():
    cuts = splits.cuts_by_hash(THREE)
    names = [cuts.split(splits.position(str(i).encode(), seed=0)) for i in range(20_000)]
    assert collections.Counter(names)["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert collections.Counter(names)["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert cuts == splits.cuts_by_hash(THREE)  # no data enter


def test_another_seed_gives_another_order():
    order = [sorted(range(50), key=lambda i: splits.position(bytes([i]), seed=seed)) for seed in (0, 1, -1)]
    assert order[0] != order[1] != order[2] != order[0]
