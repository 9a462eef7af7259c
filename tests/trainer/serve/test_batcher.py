"""Tests that what waits is asked about together, and that each item gets its own answer or refusal."""

import concurrent.futures
import threading

import pytest

from trainer.serve.batcher import Batcher


class Doubler:
    """Doubles numbers, refuses negative ones, and waits for `gate` before it answers anything."""

    def __init__(self):
        self.gate = threading.Event()
        self.batches = []

    def ask(self, numbers):
        assert self.gate.wait(10)
        self.batches.append(list(numbers))
        if any(number < 0 for number in numbers):
            raise ValueError("negative")
        if 99 in numbers:
            raise RuntimeError("a bug")
        return [2 * number for number in numbers]


def submit(numbers, most=4):
    """Submits numbers while the first one is being answered."""
    doubler, sizes = Doubler(), []
    batcher = Batcher(doubler.ask, most=most, observe=sizes.append)
    futures = [batcher.submit(number) for number in numbers]
    batcher.close()
    doubler.gate.set()
    concurrent.futures.wait(futures, 10)
    return futures, doubler.batches, sizes


def test_what_waits_is_answered_together_up_to_so_many():
    futures, batches, sizes = submit(range(11))
    assert [future.result() for future in futures] == list(range(0, 22, 2))
    assert [number for batch in batches for number in batch] == list(range(11))
    assert sizes[-1] <= 4
    assert max(sizes) == 4
    assert len(batches) <= 4


def test_who_is_refused_costs_only_itself():
    futures, _, _ = submit([0, 1, -1, 2, 3])
    with pytest.raises(ValueError, match="negative"):
        futures[2].result()
    assert [futures[at].result() for at in (0, 1, 3, 4)] == [0, 2, 4, 6]


def test_a_bug_reaches_who_asked_and_the_next_are_answered():
    futures, _, _ = submit([99, 1, 2], most=1)
    with pytest.raises(RuntimeError, match="a bug"):
        futures[0].result()
    assert [futures[1].result(), futures[2].result()] == [2, 4]


def test_who_has_gone_is_not_asked_about():
    doubler = Doubler()
    batcher = Batcher(doubler.ask, most=4)
    first = batcher.submit(1)
    gone, stayed = batcher.submit(2), batcher.submit(3)
    while not first.running():
        pass
    if gone.cancel():  # but for where it was taken with the first
        doubler.gate.set()
        assert stayed.result(10) == 6
        assert all(2 not in batch for batch in doubler.batches)
    doubler.gate.set()
    batcher.close()
