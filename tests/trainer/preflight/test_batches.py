"""Tests the search for the largest batch."""

import dataclasses

import pytest

from trainer.preflight import batches
from trainer.preflight.batches import Attempt
from trainer.preflight.question import SEARCH


@dataclasses.dataclass
class _Memory:
    """Stands for a compiler whose memory is affine in the batch, but saves some where it would not fit otherwise."""

    fixed: float
    slope: float
    limit: float
    saves: float = 0.0
    tells: bool = True
    calls: int = 0

    def __call__(self, batch: int) -> Attempt:
        self.calls += 1
        needed = self.fixed + self.slope * batch
        if needed > self.limit:
            needed = max(needed * (1 - self.saves), min(needed, self.limit * 0.999))
        fits = needed <= self.limit
        return Attempt(batch=batch, needed=needed if fits or self.tells else 0.0, fits=fits)

    def most(self) -> int:
        return int((self.limit / (1 - self.saves) - self.fixed) / self.slope)


@pytest.mark.parametrize("first", [1, 8, 25, 256, 5000])
@pytest.mark.parametrize(
    "memory",
    [
        _Memory(fixed=0.1e9, slope=14e6, limit=15.75e9),
        _Memory(fixed=8e9, slope=3e6, limit=15.75e9),
        _Memory(fixed=0.0, slope=1e9, limit=15.75e9),
        _Memory(fixed=0.1e9, slope=14e6, limit=15.75e9, saves=0.2),
        _Memory(fixed=0.1e9, slope=14e6, limit=15.75e9, tells=False),
    ],
)
def test_the_largest_batch_is_found_with_few_compiles(memory, first):
    start = memory(first)
    memory.calls = 0
    found = batches.largest_batch(memory, start, limit=memory.limit, most=4096, compiles=5)
    true = min(memory.most(), max(4096, first if start.fits else 0))
    assert memory.calls <= 5
    assert all(a.fits for a in found.attempts if a.batch <= found.largest)
    assert found.largest <= true
    assert found.too_large is None or found.too_large > true
    if memory.tells and not memory.saves:  # within 3 %, or 8 images, of the true one
        assert found.largest >= true - max(8, 0.03 * true)
    elif memory.tells:  # the line does not know what the compiler can save
        assert found.largest >= 0.75 * true


@pytest.mark.parametrize("first", [4, 8, 25, 256])
@pytest.mark.parametrize(
    "memory",
    [
        _Memory(fixed=0.1e9, slope=14e6, limit=15.75e9),
        _Memory(fixed=8e9, slope=3e6, limit=15.75e9),
        _Memory(fixed=0.1e9, slope=14e6, limit=15.75e9, saves=0.2),
    ],
)
def test_one_compile_and_one_to_verify_nearly_find_it(memory, first):
    start = memory(first)
    memory.calls = 0
    known = 0.8 * memory.fixed  # variables and gradients, of what does not grow with the batch
    found = batches.largest_batch(memory, start, limit=memory.limit, most=4096, compiles=SEARCH, fixed=known)
    assert memory.calls <= SEARCH == 2
    assert found.attempts[-1].fits
    assert found.largest >= 0.94 * int((memory.limit - memory.fixed) / memory.slope)


def test_nothing_fits_where_the_fixed_part_is_too_large():
    memory = _Memory(fixed=20e9, slope=1e6, limit=15.75e9)
    found = batches.largest_batch(memory, memory(64), limit=memory.limit, compiles=5)
    assert (found.largest, found.too_large) == (0, min(a.batch for a in found.attempts))


def test_no_more_is_tried_than_there_are_images():
    memory = _Memory(fixed=0.0, slope=1e3, limit=15.75e9)
    found = batches.largest_batch(memory, memory(32), limit=memory.limit, most=1000, compiles=2)
    assert found.too_large is None
    assert 990 <= found.largest <= 1000
