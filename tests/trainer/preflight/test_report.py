"""Tests the report of preflight."""

import dataclasses
import itertools
import json
import pathlib
import re

import pytest

from tests.trainer.preflight.test_compiler import OOM
from tests.trainer.preflight.test_roofline import exchange
from trainer.devices.tpus import GIB, parse_topology
from trainer.preflight import anchors, compiling, findings, report
from trainer.preflight.compiling import Compiled

V5E = parse_topology("v5e:2x4")


def _report(**changes):
    fits = Compiled(
        batch=25,
        needed=2 * GIB,
        limit=0.0,
        arguments=0.5 * GIB,
        temporaries=1.5 * GIB,
        flops=197e9,  # 1 ms
        bytes_accessed=5e9,
        traffic=1.638e9,  # 2 ms
        product_flops=180e9,
        plain_bytes=90,
        padded_bytes=100,
        worst_padding=((10_000_000, "bf16[25,7,7,96]: channels 96 → 128", "stem"),),
        on_host=(),
        collectives=(exchange("all-reduce", 16_000_000, waits=False),),  # 0.14 ms
    )
    step = findings.Step(name="phase all", compiled=fits, product_flops=180_000_000_000, input_bytes=15_000_000)
    evaluation = dataclasses.replace(step, name="evaluation", compiled=dataclasses.replace(fits, collectives=()))
    values = {
        "title": "recipe r",
        "data": "50 images",
        "notes": ("a note",),
        "steps": (step, evaluation),
        "work": (findings.Work(name="phase all", step=0, count=1_800_000, needs_input=True),),
        "searched": findings.Searched(name="phase all", largest=step, too_large=1024, images=5000),
        "channel_fill": 0.25,
        "feed": {"core_seconds": 0.001, "cores": 2, "machine": "an old processor", "sample": "a sample"},
        "versions": {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.52"},
        "programs": ("abc",),
    }
    return findings.Report(**{**values, **changes})


def test_a_report_survives_the_cache():
    original = _report()
    assert findings.Report.from_dict(json.loads(json.dumps(dataclasses.asdict(original)))) == original
    unsearched = _report(searched=None)
    assert findings.Report.from_dict(json.loads(json.dumps(dataclasses.asdict(unsearched)))) == unsearched


def test_the_report_says_what_follows_from_the_figures():
    text = "\n".join(report.lines(_report(), V5E))
    assert "fits: 2.00 GiB of 15.75 GiB (arguments 0.50 GiB, temporaries 1.50 GiB)" in text
    assert "compute 25,000, memory 12,500 images/s a chip" in text
    assert "exchange    1 all-reduce of 15.3 MiB beside the work\n" in text
    assert "memory 12,500 images/s a chip, links 178,571, copy from the host 25,000\n" in text
    assert f"at most 12,500 images/s a chip, bound by memory; likely {12_500 * anchors.fractions()[0]:,.0f} to" in text
    assert "10.0% of the memory" in text
    assert "channels 96 → 128  (stem)" in text
    assert "25 a chip fits in 2.00 GiB, 200 a slice; 1,024 does not" in text
    least, most = anchors.fractions()
    likely = rf"likely {1 / most:.1f} h to {1 / least:.1f} h, {8 / most:.3g} to {8 / least:.3g} chip-hours"
    assert re.search(rf"1,800,000 steps  at least 60\.0 min, {likely}\n", text)
    assert "arxiv.org/abs/2011.00071" in text
    assert "price" not in text
    # 100,000 images/s at 1 ms each: 100 cores; the host has 224.
    assert "takes 100,000 images/s: 100 cores like those" in text
    assert "the hosts can feed that" in text


def test_a_report_goes_on_where_it_was():
    whole = _report()
    parts = [
        dataclasses.replace(whole, steps=(), feed=None, searched=None),
        dataclasses.replace(whole, steps=whole.steps[:1], feed=None, searched=None),
        dataclasses.replace(whole, feed=None, searched=None),
        dataclasses.replace(whole, searched=None),
        whole,
    ]
    texts = [list(report.lines(part, V5E)) for part in parts]
    for shorter, longer in itertools.pairwise(texts):
        assert len(shorter) < len(longer)
        assert longer[: len(shorter)] == shorter


def test_the_price_is_that_of_the_likely_chip_hours():
    text = "\n".join(report.lines(_report(), V5E, price=1.2))
    least, most = anchors.fractions()
    assert re.search(rf"likely price +{1.2 * 8 / most:.4g} to {1.2 * 8 / least:.4g}, at 1.2 a chip-hour", text)


@pytest.mark.parametrize(
    ("images", "said"), [(25, "there are no more than 25 training images a chip"), (50, "a larger one was not tried")]
)
def test_the_report_says_why_the_search_ended_where_all_fitted(images, said):
    searched = findings.Searched(name="phase all", largest=_report().steps[0], too_large=None, images=images)
    text = "\n".join(report.lines(_report(searched=searched), V5E))
    assert f"25 a chip fits in 2.00 GiB, 200 a slice; {said}\n" in text


def test_the_report_of_a_small_step_is_not_all_noughts():
    step = _report().steps[0]
    padding = ((90_000, "u32[1]: channels 1 → 128", "seed"),)
    small = dataclasses.replace(
        step.compiled, needed=300_000, traffic=819e3, flops=1e6, worst_padding=padding, collectives=()
    )
    work = (findings.Work(name="phase head", step=0, count=3, needs_input=False),)
    changed = _report(steps=(dataclasses.replace(step, compiled=small),), work=work, searched=None)
    text = "\n".join(report.lines(changed, V5E))
    assert "fits: 0.286 MiB of 15.75 GiB" in text
    assert re.search(r"phase head +3 steps  at least +0.003 s", text)  # of copying
    assert "10.0% of the memory that tensors take\n" in text
    assert "u32[1]" not in text


def test_the_report_says_when_the_chips_would_wait():
    slow = _report(feed={**_report().feed, "core_seconds": 0.00448})  # 224 cores: 50,000 images/s
    text = "\n".join(report.lines(slow, V5E))
    assert (
        'cannot feed "phase all" as fast: the whole recipe takes 2.0 h at least, 16 chip-hours, at their rate' in text
    )
    assert "the chips wait 50% of it" in text


def test_the_report_shares_the_input_out_to_several_hosts():
    text = "\n".join(report.lines(_report(), parse_topology("v5e:4x4")))
    assert "slice: v5e:4x4, 16 chips on 4 hosts of 112 vCPUs" in text
    assert re.search(rf"at least 60\.0 min, .* {16 / anchors.fractions()[1]:.3g} to [\d.]+ chip-hours", text)
    # 200,000 images/s at 1 ms each: 200 cores; the hosts have 448.
    assert "takes 200,000 images/s: 200 cores like those" in text
    assert "that is 50,000 images/s and 50 cores for each of 4 hosts" in text
    assert "the slice's 448 vCPUs about 448,000" in text
    assert "the hosts can feed that" in text


def test_the_report_on_one_host_has_no_shares():
    text = "\n".join(report.lines(_report(), V5E))
    assert "8 chips on 1 host of 224 vCPUs" in text
    assert "for each of" not in text


def test_what_does_not_fit_has_no_hours_and_is_a_usage_error():
    step = _report().steps[0]
    failed = dataclasses.replace(step, compiled=compiling.summarize({"error": OOM}, pathlib.Path(), batch=25))
    bad = _report(steps=(failed,), searched=findings.Searched(name="phase all", largest=None, too_large=8, images=75))
    text = "\n".join(report.lines(bad, V5E))
    assert not bad.fits
    assert "does not fit: 81.71 GiB, there are 15.75 GiB" in text
    assert "none fits; 8 a chip was the smallest one tried" in text
    assert "chip-hours" not in text
