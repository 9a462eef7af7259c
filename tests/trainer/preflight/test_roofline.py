"""Tests the arithmetic of preflight: what bounds a step, and how much of that is likely."""

import pytest

from trainer.devices.tpus import parse_topology
from trainer.preflight import anchors, roofline
from trainer.preflight.hlo import Collective

V5E = parse_topology("v5e:2x4")


def exchange(kind, size=8_000_000_000, waits=True):
    return Collective(kind=kind, count=1, bytes=size, waits=waits)


def test_step_bounds_by_hand():
    # v5e: 197 TFLOP/s, 819 GB/s, 400 GB/s over the links (200 each way); 8 chips send 2 * 7/8 of the gradients.
    summed, moved = exchange("all-reduce"), exchange("all-gather", waits=False)
    bounds = roofline.step_bounds(
        flops=394e12, traffic=81.9e9, collectives=[summed, moved], input_bytes=3e9, target=V5E
    )
    assert bounds.compute == pytest.approx(2.0)
    assert bounds.memory == pytest.approx(0.1)
    assert bounds.network == pytest.approx(21e9 / 200e9)
    assert bounds.waiting == pytest.approx(14e9 / 200e9)
    assert bounds.seconds == pytest.approx(2.0 + 14e9 / 200e9)  # the step stands still while it sums
    assert bounds.bound_by == "compute"
    assert bounds.copy == pytest.approx(0.2)


def test_a_step_is_no_faster_than_its_images_are_copied_to_the_chips():
    bounds = roofline.step_bounds(flops=1e12, traffic=1e9, collectives=[], input_bytes=15e9, target=V5E)
    assert bounds.seconds == pytest.approx(1.0)
    assert bounds.bound_by == "the copy from the host"
    assert bounds.likely == (pytest.approx(1.0), pytest.approx(1.0))  # the chip's share of it is far less


def test_a_real_step_takes_its_share_of_the_roofline():
    bounds = roofline.step_bounds(flops=197e12, traffic=1e9, collectives=[], input_bytes=0, target=V5E)
    least, most = anchors.fractions()
    assert 0.1 < least < most < 0.6
    assert bounds.likely == (pytest.approx(1 / most), pytest.approx(1 / least))


def test_every_anchor_has_its_source_and_the_issued_one_its_rate():
    assert all(anchor.source.startswith("https://") and 0 < anchor.fraction < 1 for anchor in anchors.ANCHORS)
    assert anchors.ANCHORS[0].rate == pytest.approx(1350, rel=0.01)  # images/s on a v2 chip


def test_one_chip_sends_nothing():
    one = parse_topology("v5e:1x1")
    exchanged = [exchange("all-reduce")]
    bounds = roofline.step_bounds(flops=1, traffic=1e9, collectives=exchanged, input_bytes=0, target=one)
    assert bounds.network == 0
    assert bounds.bound_by == "memory"


def test_an_input_that_is_too_slow_sets_the_pace_of_what_it_feeds():
    values = {"likely": (0.02, 0.05), "images": 200}
    fed = roofline.Stretch(name="a", steps=100, seconds=0.01, needs_input=True, **values)  # wants 20,000 images/s
    cached = roofline.Stretch(name="b", steps=1000, seconds=0.001, needs_input=False, **values)
    assert roofline.likely_seconds([fed, cached]) == (pytest.approx(22), pytest.approx(55))
    slowly = roofline.likely_seconds([fed, cached], input_rate=5_000)  # 4 s for what takes 2 to 5
    assert slowly == (pytest.approx(4 + 20), pytest.approx(5 + 50))
    assert roofline.total_seconds([fed, cached]) == pytest.approx(2.0)
    assert roofline.total_seconds([fed, cached], input_rate=40_000) == pytest.approx(2.0)
    assert roofline.total_seconds([fed, cached], input_rate=5_000) == pytest.approx(4.0 + 1.0)
    assert roofline.cores_needed(20_000, 0.001) == pytest.approx(20)
