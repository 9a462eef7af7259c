"""Tests what trainer.preflight computes around the compiler: slices, arithmetic, the search, the cache, the report."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from pipeline.command import DataError, ExitCode, UsageError
from tests import datasets
from trainer.devices.tpus import GENERATIONS, GIB, accelerator_type, known_slices, parse_topology
from trainer.preflight import anchors, batches, cache, compiling, examine, facts, feeding, findings, report, roofline
from trainer.preflight.batches import Attempt
from trainer.preflight.compiling import Compiled
from trainer.preflight.fingerprint import digest_of, followed
from trainer.preflight.hlo import Collective
from trainer.preflight.question import SEARCH, Question
from trainer.recipes.load import load_recipe, recipe_names

V5E = parse_topology("v5e:2x4")


@pytest.mark.parametrize(
    ("text", "name", "chips", "hosts"),
    [
        ("v5e:2x4", "v5e:2x4", 8, 1),
        ("v5litepod-8", "v5e:2x4", 8, 1),
        ("v5e-1", "v5e:1x1", 1, 1),
        ("v5e:16x16", "v5e:16x16", 256, 64),
        ("v4-8", "v4:2x2x1", 4, 1),  # v4 and v5p are counted in cores, two a chip
        ("v4:4x4x4", "v4:4x4x4", 64, 16),
        ("v5p-16", "v5p:2x2x2", 8, 2),
        ("v6e-8", "v6e:2x4", 8, 1),
    ],
)
def test_slices_are_written_as_shapes_or_as_clouds_accelerator_types(text, name, chips, hosts):
    found = parse_topology(text)
    assert (found.name, found.chips, found.hosts) == (name, chips, hosts)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5e:2x5", "v5e:2x4"),
        ("v5:2x4", 'Did you mean "v5'),
        ("v6e-9", "v6e:2x4"),
        ("v5litepod-9", 'Did you mean "v5litepod-'),
        ("", "v4, v5e, v5p, v6e"),
        ("tpu", "v4, v5e, v5p, v6e"),
    ],
)
def test_unknown_slices_are_refused_with_the_nearest_names(text, hint):
    with pytest.raises(UsageError, match=f"--topology={text}: no such") as caught:
        parse_topology(text)
    assert hint in str(caught.value)


def test_every_slice_of_the_table_is_found_by_its_name():
    for slice_ in known_slices():
        assert parse_topology(slice_.name) == slice_
        same_size = parse_topology(accelerator_type(slice_))
        assert same_size.chips == slice_.chips


@pytest.mark.parametrize(
    ("text", "chips_of_host", "of_host", "of_all"),
    [
        ("v5e:1x1", 1, 24, 24),
        ("v5e:2x4", 8, 224, 224),
        ("v5e:4x4", 4, 112, 448),
        ("v6e:2x4", 8, 180, 180),
        ("v6e:8x8", 4, 180, 16 * 180),
        ("v4:4x4x4", 4, 240, 16 * 240),
    ],
)
def test_cores_are_those_of_the_virtual_machines(text, chips_of_host, of_host, of_all):
    found = parse_topology(text)
    assert (found.chips_of_host, found.host_cores, found.cores) == (chips_of_host, of_host, of_all)


def test_every_generation_has_its_source():
    assert set(GENERATIONS) == {"v4", "v5e", "v5p", "v6e"}
    assert all(generation.source.startswith("https://") for generation in GENERATIONS.values())


def _exchange(kind, size=8_000_000_000, waits=True):
    return Collective(kind=kind, count=1, bytes=size, waits=waits)


def test_step_bounds_by_hand():
    # v5e: 197 TFLOP/s, 819 GB/s, 400 GB/s over the links (200 each way); 8 chips send 2 * 7/8 of the gradients.
    summed, moved = _exchange("all-reduce"), _exchange("all-gather", waits=False)
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
    exchanged = [_exchange("all-reduce")]
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


def test_results_are_kept_by_their_key(tmp_path):
    kept = cache.Cache(tmp_path)
    assert kept.get({"a": 1}) is None
    kept.put({"a": 1, "b": "x"}, {"value": 2.5})
    assert kept.get({"b": "x", "a": 1}) == {"value": 2.5}
    assert kept.get({"a": 1, "b": "y"}) is None
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-10])
    assert kept.get({"a": 1, "b": "x"}) is None


def test_no_directory_keeps_nothing():
    nothing = cache.Cache(None)
    nothing.put({"a": 1}, {"value": 1})
    assert nothing.get({"a": 1}) is None


def test_what_was_shipped_is_found_and_not_written_to(tmp_path):
    cache.Cache(tmp_path / "shipped").put({"a": 1}, {"value": 1})
    kept = cache.Cache(tmp_path / "own", shipped=tmp_path / "shipped")
    assert kept.get({"a": 1}) == {"value": 1}
    kept.put({"a": 2}, {"value": 2})
    assert cache.Cache(tmp_path / "shipped").get({"a": 2}) is None


CODE = {
    "p/__init__.py": "",
    "p/start.py": "from p.used import f\nfrom p import other\nimport numpy\n",
    "p/used.py": "def f():\n    return 1\n",
    "p/other.py": "def g():\n    from p.deep import h\n    return h()\n",
    "p/deep.py": "h = int\n",
    "p/unused.py": "x = 1\n",
}


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("p/used.py", '# why\ndef f():\n    """Returns one."""\n\n    return (\n        1\n    )\n', True),
        ("p/unused.py", "x = 2\n", True),
        ("p/used.py", "def f():\n    return 2\n", False),
        ("p/used.py", "def f():\n    return '1'\n", False),
        ("p/deep.py", "h = float\n", False),
        ("p/__init__.py", "import os\n", False),
    ],
)
def test_code_that_matters_is_another_key(tmp_path, file, text, same):
    def digest(changes):
        for name, code in {**CODE, **changes}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(code)
        return digest_of([tmp_path / "p/start.py"], root=tmp_path, packages=["p"])

    assert (digest({}) == digest({file: text})) == same


def test_the_key_holds_the_code_that_makes_and_reads_the_program_and_no_other():
    root = pathlib.Path(__file__).resolve().parents[3]
    start = root / "trainer/preflight/examine.py"
    files = followed([start], root=root, packages=("pipeline", "trainer"))
    names = {str(path.relative_to(root)) for path in files}
    assert {"trainer/train/step.py", "trainer/models/efficientnet.py", "trainer/preflight/hlo.py",
            "pipeline/batching.py", "trainer/recipes/fitting.py"} <= names  # fmt: skip
    no_matter = {"report.py", "roofline.py", "anchors.py"}  # what an answer is printed with
    assert not names & {"trainer/run.py", "trainer/recipes/photos.py", *(f"trainer/preflight/{n}" for n in no_matter)}


OOM = (
    "JaxRuntimeError: RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (81.71G) exceeds available HBM (15.75G). HLO module: a_inference_f_1001__.36.\nSee"
)


def test_a_program_that_does_not_fit_says_by_how_much(tmp_path):
    compiled = compiling.summarize({"error": OOM}, tmp_path, batch=8)
    assert (compiled.fits, compiled.out_of_memory) == (False, True)
    assert (compiled.needed / GIB, compiled.limit / GIB) == (pytest.approx(81.71), 15.75)


def test_a_program_that_does_not_compile_is_no_matter_of_memory(tmp_path):
    compiled = compiling.summarize(
        {"error": "JaxRuntimeError: UNIMPLEMENTED: no such custom call: X"}, tmp_path, batch=8
    )
    assert (compiled.fits, compiled.out_of_memory) == (False, False)


def test_an_interpreter_that_cannot_be_run_is_refused():
    with pytest.raises(UsageError, match="--jax_python=/nowhere/python: cannot be run"):
        compiling.find_versions("/nowhere/python")


def test_the_command_that_installs_what_is_missing_is_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="jax is not installed in") as caught:
        compiling.find_versions(str(bare))
    assert "pip install '.[preflight]'" in str(caught.value)


def _recipe(**changes):
    recipe = load_recipe("cifar10_cnn", facts.published_counts("cifar10_cnn").facts)
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize(
    ("batch", "accumulate", "chips", "expected"), [(200, 1, 8, 200), (32, 1, 64, 64), (200, 1, 16, 208), (32, 3, 8, 48)]
)
def test_a_batch_that_the_chips_cannot_share_is_rounded_up_with_a_note(batch, accumulate, chips, expected):
    recipe, notes = examine.split_batch(_recipe(batch_size=batch, accumulate=accumulate), chips)
    assert recipe.batch_size == expected
    assert bool(notes) == (batch != expected)
    assert all(f"--set=batch_size={expected}" in note for note in notes)


def test_every_recipe_has_counts_to_be_examined_with():
    for name in recipe_names():
        counts = facts.published_counts(name)
        load_recipe(name, counts.facts)


def test_counts_come_from_the_data(tmp_path):
    records = {
        "train": datasets.random_records(5, classes=3),
        "validation": datasets.random_records(2, classes=3, seed=1),
    }
    counts = facts.counts_of(datasets.write_dataset(tmp_path / "a", records, ["a", "b", "c"]))
    assert (counts.train, counts.validation, counts.classes, counts.side) == (5, 2, 3, 32)
    only_test = datasets.write_dataset(tmp_path / "b", {"test": records["train"]}, ["a", "b", "c"])
    with pytest.raises(DataError, match="no examples in split train; it has test"):
        facts.counts_of(only_test)


@pytest.mark.parametrize(
    ("name", "chips", "train", "said"),
    [
        ("cifar10_cnn", 8, 50_000, ": --set=batch_size=1024 gives 128;"),
        ("big_cats_vgg16", 8, 600, "; 128 would, but 600 images are too few for a larger batch: 1 chip would do"),
        ("cifar10_efficientnet", 2, 50_000, None),
    ],
)
def test_a_batch_too_small_is_said_with_the_number_to_use(name, chips, train, said):
    recipe = load_recipe(name, facts.published_counts(name).facts)
    notes = examine.notes_on_batch(recipe, chips=chips, num_train=train)
    assert len(notes) == (said is not None)
    assert all(said in note for note in notes)


def test_an_unknown_recipe_is_refused_before_anything_is_compiled():
    with pytest.raises(UsageError, match='no such recipe.*Did you mean "photos"'):
        next(examine.examine(Question(recipe="photo", target=V5E), compiler=None))


def test_the_sample_is_a_dataset_and_feeding_it_takes_time(tmp_path):
    data = feeding.write_sample(tmp_path, count=6, height=30, width=40)
    assert [(r.height, r.width, r.label) for r in data.read("train")] == [(30, 40, i % 2) for i in range(6)]
    feed = feeding.measure(_recipe(), data, side=40, seconds=0.2)
    assert feed.images > 0
    assert 1e-6 < feed.core_seconds < 1
    assert str(tmp_path) in feed.sample


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
        collectives=(_exchange("all-reduce", 16_000_000, waits=False),),  # 0.14 ms
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


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.preflight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_the_command_refuses_wrong_flags_at_once(tmp_path):
    unknown = _command("--topology=v5e:2x5")
    assert unknown.returncode == ExitCode.USAGE
    assert unknown.stderr.startswith("error: --topology=v5e:2x5: no such slice; there are v5e:1x1")
    absent = _command("--topology=v5e:2x4", f"--data={tmp_path / 'none'}")
    assert absent.returncode == ExitCode.USAGE
    assert "no such directory" in absent.stderr
    assert _command().returncode == ExitCode.USAGE
