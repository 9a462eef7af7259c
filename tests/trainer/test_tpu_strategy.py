"""Tests what the training step and the evaluation place on TPU cores, by tracing them under the real TPUStrategy."""

import json
import pathlib
import subprocess
import sys

import keras
import pytest

from trainer.preflight import hlo
from trainer.preflight.facts import published_counts
from trainer.preflight.lowering import Lowering
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIONS = "cifar10_cnn+sam_rho=0.05+accumulate=2+optimizer.clip_norm=1+ema_decay=0.99+batch_size=128"
ON_CHIP = "cifar10_cnn+augment.on_accelerator=true"
MIXED = "cifar10_cnn+augment.mixup=0.2"
RESIDENT = (
    "cifar10_cnn+cache=device+augment.flip=true+augment.shift=0.1+augment.zoom=0.2+augment.random_resized_crop=0.5"
    "+augment.contrast=0.2+augment.cutout_count=1+augment.cutout_size=0.4+augment.mixup=0.2+augment.cutmix=1"
)
LITE = "backbone=efficientnet_lite0"
STATISTICS = f"cifar10_efficientnet:all+{LITE}+phases.1.batch_norm=train"


def traced(*jobs):
    """Returns title → what was found, see `tpu_tracing.Cluster`; in a process of its own, which no device has seen."""
    command = [sys.executable, "-m", "tests.trainer.tpu_tracing", *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one["title"]: one for one in found}


def check(found):
    for title, one in found.items():
        assert one["ops"] > 20, title  # it is there at all
        for problem in ("optional", "strings", "unknown_shapes", "on_host", "no_kernel"):
            assert not one[problem], (title, problem, one[problem])
        assert one["collectives"].get("AllToAll", 0) <= 1, title  # the step counter's
        assert set(one["collectives"]) <= {"CrossReplicaSum", "AllToAll"}, title


def lowered_sums(job, phase_name):
    """Returns type and dimensions of each sum over the chips in the program that preflight compiles, sorted."""
    before = keras.config.dtype_policy()
    (name, *_), settings = job.split("+")[0].split(":"), job.split("+")[1:]
    counts = published_counts(name)
    recipe = override(load_recipe(name, counts.facts), settings)
    (phase,) = (phase for phase in recipe.phases if phase.name == phase_name)
    lowering = Lowering(recipe, num_classes=counts.classes, chips=8, chips_of_host=8)
    program = lowering.train_step(phase, batch=recipe.batch_size // 8, steps_per_epoch=10)
    keras.config.set_dtype_policy(before)
    types = {"f32": "float32", "bf16": "bfloat16"}
    return sorted(
        f"{types[buffer.kind]}{list(buffer.dims)}"
        for instruction in hlo.instructions(program.text)
        if instruction.opcode == "all-reduce"
        for buffer in instruction.results
    )


def sums(one):
    return one["collectives"].get("CrossReplicaSum", 0)


@pytest.fixture(scope="module")
def small():
    return traced("cifar10_cnn", OPTIONS, ON_CHIP, MIXED, RESIDENT)


def test_the_step_is_static_and_stays_on_the_chips(small):
    assert len(small) == 11  # a step and an evaluation each, and the change of places with averages
    check(small)


def test_each_trained_variable_is_summed_once_and_twice_where_gradients_are_clipped(small):
    assert small["cifar10_cnn all"]["trained"] == 12
    for job in ("cifar10_cnn", ON_CHIP, MIXED, RESIDENT):
        assert sums(small[f"{job} all"]) == 12
        assert sums(small[f"{job} evaluation"]) == 0
    assert sums(small[f"{OPTIONS} all"]) == 24


@pytest.mark.parametrize("job", ["cifar10_cnn", OPTIONS, ON_CHIP])
def test_preflight_compiles_the_sums_of_the_step_that_runs(job, small, xla):
    assert lowered_sums(job, "all") == sorted(small[f"{job} all"]["summed"])


@pytest.mark.slow
def test_preflight_compiles_the_sums_of_learnt_statistics(xla):
    found = traced(STATISTICS)[f"{STATISTICS} all"]
    assert len(found["summed"]) > found["trained"]
    assert lowered_sums(STATISTICS, "all") == sorted(found["summed"])


@pytest.mark.slow
def test_cached_features_and_a_frozen_backbone():
    found = traced("quick")
    check(found)
    assert {title: sums(one) for title, one in found.items()} == {title: one["trained"] for title, one in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [
        "photos",
        "photos+augment.on_accelerator=true+ema_decay=0.999",
        f"cifar10_efficientnet+{LITE}+sam_rho=0.05",
        "oxford_pets_resnet",
        "big_cats_vgg16",
        "scraped_vgg16",
    ],
)
def test_every_recipe(job):
    found = traced(job)
    check(found)
    for title, one in found.items():
        assert sums(one) >= one["trained"], title  # and the statistics of batch norm, where they are learnt
