"""Tests real compiles for TPUs that are not there. All slow: a compile takes from half a minute to ten.

They need jax and libtpu (`pip install '.[preflight]'`), in this Python or in the one that PREFLIGHT_PYTHON names.
"""

import os
import re
import subprocess
import sys
import time

import pytest

from pipeline.command import CommandError, ExitCode, UsageError
from tests import datasets
from trainer.devices.tpus import GENERATIONS, known_slices, parse_topology
from trainer.preflight import hlo
from trainer.preflight.batches import Attempt, largest_batch
from trainer.preflight.cache import Cache
from trainer.preflight.compiling import Compiler, find_versions
from trainer.preflight.facts import published_counts
from trainer.preflight.lowering import Lowering
from trainer.recipes.load import load_recipe, recipe_names
from trainer.recipes.overrides import override

pytestmark = pytest.mark.slow
BATCH = 8  # smaller ones are padded, which costs operations that the layers do not ask for
SOME_FILLED_UP = 0.001  # the compiler sums a few small tensors as they lie in memory
# Gradients of biases come out of a sum in bfloat16, and the compiler sums them over the chips before it widens them:
# 2 bytes in place of 4 for each. EfficientNet-B0 has 30,348 in 4,020,358, with beta and those of squeeze-and-excite.
SOME_IN_BFLOAT16 = 0.005
V5E = parse_topology("v5e:2x4")


@pytest.fixture(scope="module")
def jax_python():
    python = os.environ.get("PREFLIGHT_PYTHON", sys.executable)
    try:
        find_versions(python)
    except UsageError as error:
        pytest.skip(f"{error} (or set PREFLIGHT_PYTHON)")
    return python


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


def recipe_of(name):
    return load_recipe(name, published_counts(name).facts)


def lowering_of(name, target=V5E):
    classes = published_counts(name).classes
    return Lowering(recipe_of(name), num_classes=classes, chips=target.chips, chips_of_host=target.chips_of_host)


def bytes_summed(text):
    (summed,) = hlo.collectives(text)
    assert summed.kind == "all-reduce"
    return summed.bytes


def compile_for(compiler, program):
    return compiler.compile(program.hlo, text_digest=program.digest, batch=program.batch)


@pytest.mark.parametrize("name", recipe_names())
def test_every_phase_of_every_recipe_compiles_for_a_slice_with_the_operations_and_sums_that_it_asks_for(
    name, jax_python, compiled_once
):
    compiler, lowering = Compiler(jax_python, V5E, compiled_once), lowering_of(name)
    for phase in recipe_of(name).phases:
        if phase.solves:  # on the host
            continue
        program = lowering.train_step(phase, batch=BATCH, steps_per_epoch=100)
        compiled = compile_for(compiler, program)
        assert compiled.fits, compiled.error
        assert compiled.product_flops == pytest.approx(program.flops, rel=0.05), phase.name
        assert compiled.flops >= compiled.product_flops  # and what is done element by element
        assert compiled.traffic > compiled.arguments / 2  # most variables are read, many are written
        assert 0 < compiled.arguments < compiled.needed
        assert compiled.on_host == ()
        assert {one.kind for one in compiled.collectives} == {"all-reduce"}, phase.name
        assert sum(one.count for one in compiled.collectives) <= 10  # many variables in one
        summed = sum(one.bytes for one in compiled.collectives)
        asked = bytes_summed(program.text)
        assert (1 - SOME_IN_BFLOAT16) * asked < summed < (1 + SOME_FILLED_UP) * asked, phase.name
    evaluation = compile_for(compiler, lowering.forward(batch=BATCH))
    assert evaluation.fits, evaluation.error
    assert evaluation.collectives == ()


@pytest.mark.parametrize("name", ["cifar10_cnn", "scraped_vgg16"])  # all layers train, the last ones only
def test_the_second_pass_of_sharpness_aware_minimisation_compiles_and_is_counted(name, jax_python, compiled_once):
    compiler, counts = Compiler(jax_python, V5E, compiled_once), published_counts(name)
    once, twice = (override(recipe_of(name), ["image_size=64", f"sam_rho={rho}"]) for rho in (0, 0.05))
    found = []
    for recipe in (once, twice):
        lowering = Lowering(recipe, num_classes=counts.classes, chips=V5E.chips)
        program = lowering.train_step(recipe.phases[-1], batch=BATCH, steps_per_epoch=100)
        compiled = compile_for(compiler, program)
        assert compiled.fits, compiled.error
        assert compiled.product_flops == pytest.approx(program.flops, rel=0.05)
        found.append(compiled)
    assert found[1].product_flops > 1.1 * found[0].product_flops
    assert found[1].arguments == pytest.approx(found[0].arguments, rel=0.01)  # no further variables


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_has_a_compiler_and_its_stated_memory(generation, jax_python, compiled_once):
    target = next(s for s in known_slices() if s.generation.name == generation and s.chips == 4)
    compiler, lowering = Compiler(jax_python, target, compiled_once), lowering_of("cifar10_cnn", target)
    phase = recipe_of("cifar10_cnn").phases[0]
    assert compile_for(compiler, lowering.train_step(phase, batch=BATCH, steps_per_epoch=100)).fits
    huge = compile_for(compiler, lowering.train_step(phase, batch=400_000, steps_per_epoch=100))
    assert huge.out_of_memory
    assert huge.limit == pytest.approx(target.generation.memory_limit, rel=0.02)  # versions of libtpu differ a little
    assert huge.needed > huge.limit


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:16x16"])
def test_a_slice_of_any_size_compiles_and_only_its_exchange_differs(topology, jax_python, compiled_once):
    programs = {name: lowering_of("cifar10_cnn", parse_topology(name)) for name in ("v5e:2x4", topology)}
    phase = recipe_of("cifar10_cnn").phases[0]
    few, other = (
        compile_for(
            Compiler(jax_python, parse_topology(name), compiled_once),
            lowering.train_step(phase, batch=BATCH, steps_per_epoch=100),
        )
        for name, lowering in programs.items()
    )
    assert other.product_flops == few.product_flops
    assert other.needed == pytest.approx(few.needed, rel=0.05)
    assert other.collectives == (() if topology == "v5e:1x1" else few.collectives)


OPTIONS = ("sam_rho=0.05", "accumulate=2", "optimizer.clip_norm=1", "ema_decay=0.99")


def test_what_options_exchange_and_keep_is_in_the_program(jax_python, compiled_once):
    counts, found = published_counts("cifar10_cnn"), []
    for settings in ((), OPTIONS):
        recipe = override(recipe_of("cifar10_cnn"), settings)
        lowering = Lowering(recipe, num_classes=counts.classes, chips=V5E.chips)
        program = lowering.train_step(recipe.phases[0], batch=BATCH, steps_per_epoch=100)
        found.append(compile_for(Compiler(jax_python, V5E, compiled_once), program))
    plain, rich = found
    trained = sum(one.bytes for one in plain.collectives)
    assert {one.kind for one in rich.collectives} == {"all-reduce"}
    twice = sum(one.bytes for one in rich.collectives)  # gradients to be clipped, and clipped ones
    assert twice == pytest.approx(2 * trained, rel=SOME_FILLED_UP)
    assert rich.arguments - plain.arguments == pytest.approx(trained, rel=0.1)  # the moving average, with padding


def test_the_largest_batch_of_a_real_step(jax_python, compiled_once):
    compiler, lowering = Compiler(jax_python, V5E, compiled_once), lowering_of("cifar10_cnn")
    phase = recipe_of("cifar10_cnn").phases[0]

    def attempt(batch):
        compiled = compile_for(compiler, lowering.train_step(phase, batch=batch, steps_per_epoch=100))
        return Attempt(batch=batch, needed=compiled.needed, fits=compiled.fits)

    found = largest_batch(attempt, attempt(1024), limit=V5E.generation.memory_limit, compiles=5)
    fitting = max((a for a in found.attempts if a.fits), key=lambda a: a.batch)
    assert fitting.batch == found.largest > 1024
    # Another few per cent would not fit: most of the memory is taken.
    assert fitting.needed > 0.85 * V5E.generation.memory_limit
    assert len(found.attempts) <= 6


def test_a_slice_of_several_hosts(jax_python, tmp_path):
    command = [
        sys.executable, "-m", "trainer.preflight", "--recipe=cifar10_cnn", "--topology=v5litepod-16", "--search=0",
        "--set=batch_size=48", "--set=augment.mixup=0.2", "--num_train=4800", f"--cache={tmp_path}",
        f"--jax_python={jax_python}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "slice: v5e:4x4, 16 chips on 4 hosts of 112 vCPUs" in done.stdout
    assert "phase all, 3 images a chip" in done.stdout  # an odd number, of which a host has 12
    (rate,) = re.findall(r"likely [\d,]+ to [\d,]+, a slice [\d,]+ to ([\d,]+)\n  padding", done.stdout)[:1]
    seconds = 5 * 4800 / float(rate.replace(",", ""))
    (hours,) = re.findall(r"phase all +500 steps .* ([\d.e-]+) to [\d.e-]+ chip-hours", done.stdout)
    assert float(hours) == pytest.approx(16 * seconds / 3600, rel=0.01)
    assert re.search(r"that is [\d,]+ images/s and [\d,]+ cores for each of 4 hosts", done.stdout)


@pytest.fixture(scope="module")
def crashing_python(jax_python, tmp_path_factory):
    """Makes an interpreter that has jax and libtpu, and crashes whenever it is to compile."""
    python = tmp_path_factory.mktemp("crashing") / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$1" in -c) exec {jax_python} "$@";; esac\necho "F0000 check failed" >&2\nexit 134\n'
    )
    python.chmod(0o755)
    return str(python)


def test_what_the_compiler_refuses_is_said_and_asked_once(jax_python, crashing_python, tmp_path):
    def asked(python):
        return Compiler(python, V5E, Cache(tmp_path)).compile(b"no program", text_digest="x", batch=1)

    compiled = asked(jax_python)
    assert not compiled.fits
    assert not compiled.out_of_memory
    assert asked(crashing_python) == compiled


def test_a_compiler_that_crashes_is_reported_and_asked_again(crashing_python, tmp_path):
    for _ in range(2):
        with pytest.raises(CommandError, match=r"crashed \(exit code 134\): F0000 check failed"):
            Compiler(crashing_python, V5E, Cache(tmp_path)).compile(b"", text_digest="x", batch=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_answers_and_a_repeat_is_instant(jax_python, tmp_path):
    splits = {
        name: datasets.random_records(40, classes=3, seed=seed) for seed, name in enumerate(("train", "validation"))
    }
    datasets.write_dataset(tmp_path / "data", splits, ["a", "b", "c"])
    command = [
        sys.executable, "-m", "trainer.preflight", "--recipe=cifar10_cnn", "--topology=v5e:2x4", "--set=batch_size=64",
        "--search=0", f"--data={tmp_path / 'data'}", f"--cache={tmp_path / 'cache'}", f"--jax_python={jax_python}",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == ExitCode.DONE, first.stderr
    assert "phase all, 8 images a chip" in first.stdout
    assert "data: 40 training and 40 validation images, 3 classes" in first.stdout
    assert f"(training images of {tmp_path / 'data'}" in first.stdout
    assert "the whole recipe (" in first.stdout
    start = time.monotonic()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.stdout == first.stdout
    assert time.monotonic() - start < 5
