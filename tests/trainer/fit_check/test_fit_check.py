"""Tests fit_check: what it measures, that it can start over exactly, what it says, and the command as users run it."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.command import DataError, UsageError
from tests import datasets
from tests.trainer.runs import small_recipe, train
from trainer.fit_check.advice import advise, fitting_accuracy, next_rate, rates_to_try, with_own
from trainer.fit_check.asked import find_phase, parse_rates
from trainer.fit_check.sweep import RangeTest, Sweep, Trial, read_sample, unregularised
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override, to_dict
from trainer.recipes.recipe import DataFacts

ROOT = pathlib.Path(__file__).resolve().parents[3]
FACTS = DataFacts(num_train=37, num_classes=3, max_side=16)
CNN = ("image_size=16", "head.hidden=16", "batch_size=8")


def one_device():
    return tf.distribute.OneDeviceStrategy("CPU:0")


def cnn_recipe(*assignments):
    return unregularised(override(load_recipe("cifar10_cnn", FACTS), [*CNN, *assignments]), 0)


def command(*flags):
    arguments = [sys.executable, "-m", "trainer.fit_check", *map(str, flags)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def trial(rate, losses, accuracies, *, diverged=False):
    return Trial(rate=rate, losses=tuple(losses), accuracies=tuple(accuracies), diverged=diverged)


def advice_on(*trials, own=1e-3, lr_min=0.0):
    return advise(trials, own=own, lr_min=lr_min, phase=1, epochs=4, images=100, most_frequent=0.3)


@pytest.mark.slow
def test_the_command_finds_that_the_model_fits_and_from_which_rate(tiny_data, tmp_path):
    out = tmp_path / "out"
    result = command(
        f"--data={tiny_data.path}", "--recipe=cifar10_cnn", *(f"--set={s}" for s in CNN), "--epochs=6", f"--out={out}"
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "fit_check.json").read_text())
    assert found["fits"]
    assert found["images"] == 37
    outcomes = {entry["rate"]: entry["fits"] for entry in found["trials"]}
    rates = sorted(outcomes)
    assert 0.001 in rates  # the recipe's own
    assert outcomes[found["rate"]]
    assert not outcomes[rates[0]]
    assert not outcomes[rates[-1]]  # it went on to the first that is too high
    assert "The model fits the 37 images at learning rates from" in result.stdout
    assert f"--set=phases.0.lr_max={found['rate']:g}" in result.stdout
    assert result.stdout.count("fits in epoch") == sum(outcomes.values())
    with Image.open(out / "fit_check.png") as image:
        assert np.asarray(image.convert("L")).std() > 0

    # The recommendation holds in a real run of the trainer.
    settings = [flag.removeprefix("--set=") for flag in found["flags"]]
    recipe = override(load_recipe("cifar10_cnn", FACTS), [*CNN, *settings, "phases.0.duration=8ep"])
    trainer, _, _ = train(tiny_data, recipe, tmp_path / "run")
    assert max(row["accuracy"] for row in trainer.rows if row["split"] == "train") > 0.9


@pytest.mark.slow
def test_a_row_is_shown_as_soon_as_its_rate_is_done(tiny_data):
    rates = [10**-power for power in range(2, 12)]
    flags = [f"--data={tiny_data.path}", "--recipe=cifar10_cnn", *(f"--set={s}" for s in CNN), "--epochs=30"]
    arguments = [sys.executable, "-m", "trainer.fit_check", *flags, f"--rates={','.join(map(str, rates))}"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "learning rate" not in (head := process.stdout.readline()):
            assert head, process.stderr.read()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert len(rest.splitlines()) < len(rates) - 1, "others were done, too, when it was shown"
    assert "Traceback" not in err


def test_a_wrong_rate_is_a_usage_error(tiny_data):
    result = command(f"--data={tiny_data.path}", "--rates=1e-3,fast")
    assert result.returncode == 64
    assert "--rates: fast is no learning rate" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", ""])
def test_what_is_no_learning_rate_is_refused(rate):
    with pytest.raises(UsageError, match="is no learning rate"):
        parse_rates(["1e-3", rate])


def test_phases_go_by_name_and_the_last_is_the_default():
    recipe = small_recipe()
    assert [find_phase(recipe, name) for name in ("head", "all", None)] == [0, 1, 1]
    with pytest.raises(UsageError, match='phases head, all. Did you mean "head"'):
        find_phase(recipe, "haed")


@pytest.mark.slow
def test_random_labels_under_a_small_head_do_not_fit(tmp_path):
    rng = np.random.default_rng(0)
    records = [dataclasses.replace(r, label=int(rng.integers(3))) for r in datasets.coloured_records(150, classes=3)]
    data = datasets.write_dataset(tmp_path, {"train": records}, ["red", "green", "blue"])
    recipe = unregularised(small_recipe("head.hidden=0"), 0)
    sweep = Sweep(recipe, data, one_device(), sample=150, epochs=5, seed=0)
    trials = [sweep.trial(rate, fits_at=0.95) for rate in (1e-3, 1e-2)]
    advice = advise(trials, own=0.003, lr_min=0, phase=0, epochs=5, images=150, most_frequent=0.4)
    assert [len(t.losses) for t in trials] == [5, 5]
    assert not advice.fits
    assert "does not fit the sample at any rate" in advice.text[0]
    assert "Are the labels right" in "\n".join(advice.text)


@pytest.mark.slow
def test_divergence_is_a_result_and_the_next_trial_starts_over_to_the_bit(tiny_data):
    sweep = Sweep(cnn_recipe(), tiny_data, one_device(), sample=37, epochs=2, seed=0)
    first = sweep.trial(1e-3, fits_at=2.0)
    lost = sweep.trial(1e30, fits_at=2.0)
    assert lost.diverged
    assert len(lost.losses) < 2
    assert sweep.trial(1e-3, fits_at=2.0) == first
    ranged = sweep.range_test()
    assert ranged.rates[0] == pytest.approx(1e-6)
    assert len(ranged.rates) == len(ranged.losses) <= 100
    assert np.isfinite(ranged.losses).all()
    again = Sweep(cnn_recipe(), tiny_data, one_device(), sample=37, epochs=2, seed=0)
    np.testing.assert_array_equal(again.range_test().losses, ranged.losses)
    assert again.trial(1e-3, fits_at=2.0) == first
    other = Sweep(cnn_recipe(), tiny_data, one_device(), sample=37, epochs=2, seed=1)
    assert other.trial(1e-3, fits_at=2.0) != first


@pytest.mark.slow
def test_two_replicas_start_over_and_measure_as_one(tiny_data, two_replicas):
    recipe = cnn_recipe("optimizer.name=sgd", "optimizer.momentum=0.9")
    one = Sweep(recipe, tiny_data, one_device(), sample=37, epochs=2, seed=0)
    two = Sweep(recipe, tiny_data, two_replicas, sample=37, epochs=2, seed=0)
    expected = one.trial(0.01, fits_at=2.0)
    first = two.trial(0.01, fits_at=2.0)
    two.trial(0.1, fits_at=2.0)
    assert two.trial(0.01, fits_at=2.0) == first
    np.testing.assert_allclose(first.losses, expected.losses, rtol=1e-3)


def test_a_trial_ends_once_it_fits(tiny_data):
    sweep = Sweep(cnn_recipe(), tiny_data, one_device(), sample=37, epochs=9, seed=0)
    assert len(sweep.trial(1e-3, fits_at=0.0).losses) == 1


def test_the_sample_is_of_the_training_split_un_augmented_and_each_image_once(tiny_data):
    recipe = small_recipe("augment.rotation=90", "augment.brightness=0.5")
    everything, labels = read_sample(tiny_data, recipe, count=100, seed=3)
    assert everything.shape == (37, 16, 16, 3)
    assert sorted(labels) == sorted(i % 3 for i in range(37))
    assert len({image.tobytes() for image in everything}) == 37
    some, _ = read_sample(tiny_data, recipe, count=10, seed=3)
    np.testing.assert_array_equal(some, everything[:10])
    other_order, _ = read_sample(tiny_data, recipe, count=100, seed=4)
    assert {image.tobytes() for image in other_order} == {image.tobytes() for image in everything}
    assert not np.array_equal(other_order, everything)


def test_a_sample_of_one_label_is_refused(tmp_path):
    data = datasets.write_dataset(tmp_path, {"train": datasets.coloured_records(6, classes=1)}, ["red", "green"])
    with pytest.raises(DataError, match=r"one label only \(red\); give a larger --sample"):
        read_sample(data, small_recipe(), count=6, seed=0)


def test_nothing_that_regularises_is_left():
    recipe = override(load_recipe("quick", FACTS), ["optimizer.name=adamw", "optimizer.weight_decay=0.1"])
    plain = to_dict(unregularised(recipe, 0))
    assert plain["head"]["dropout"] == plain["label_smoothing"] == plain["ema_decay"] == 0
    assert plain["optimizer"]["weight_decay"] == plain["phases"][0]["l2"] == 0
    assert not any(plain["augment"].values())
    assert [phase["name"] for phase in plain["phases"]] == ["head"]
    assert plain["phases"][0]["trainable"] == to_dict(recipe)["phases"][0]["trainable"]


def test_the_range_test_finds_the_steepest_and_the_lowest_of_a_known_curve():
    rates = np.geomspace(1e-6, 10, 100)
    falling = 2 - 1.5 / (1 + (1e-3 / rates) ** 2)  # half-way down at 1e-3
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    exploding = np.where(rates > 0.1, 50.0, falling)
    ranged = RangeTest(rates, exploding + noise)
    assert 3e-4 < ranged.steepest() < 3e-3
    assert 3e-3 < ranged.lowest() < 0.1
    # A network that the explosion killed says the same of every image, which may cost less than what it had learned.
    dead = RangeTest(rates, np.where(rates > 1, 0.1, exploding) + noise)
    assert dead.lowest() == ranged.lowest()
    assert dead.steepest() == ranged.steepest()


def test_the_rates_to_try_lie_around_the_lowest_loss_and_include_the_recipes_own():
    assert rates_to_try(lowest_loss_at=0.0013) == [3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    assert rates_to_try(lowest_loss_at=0.003) == rates_to_try(lowest_loss_at=0.0013)
    assert with_own([1e-4, 1e-3], 4e-4) == [1e-4, 4e-4, 1e-3]
    assert with_own([1e-4, 1e-3], 1.01e-3) == [1e-4, 1e-3]
    assert with_own([1e-4], 0.0) == [1e-4]
    assert next_rate(3e-3) == 1e-2
    assert next_rate(0.025) == 0.03


def test_fitting_is_more_than_guessing_the_most_frequent_label():
    assert fitting_accuracy(0.1) == 0.95
    assert fitting_accuracy(0.98) == pytest.approx(0.998)


def test_advice_where_it_fits():
    slow, fast = trial(1e-4, [1, 0.4, 0.2], [0.5, 0.8, 0.96]), trial(1e-3, [1, 0.1], [0.6, 0.98])
    lost = trial(1e-1, [3.0], [0.3], diverged=True)
    advice = advice_on(slow, fast, lost)
    assert advice.fits
    assert "from 0.0001 to 0.001, soonest at 0.001 (in epoch 2)" in advice.text[0]
    assert "own rate, 0.001, is among them" in advice.text[1]
    assert advice.flags == ("--set=phases.1.lr_max=0.001",)
    assert "is not among them" in advice_on(slow, fast, lost, own=0.1).text[1]
    below = advice_on(slow, trial(1e-3, [1, 1, 1, 1], [0.3] * 4), own=1e-3, lr_min=1e-3)
    assert below.flags == ("--set=phases.1.lr_max=0.0001", "--set=phases.1.lr_min=1e-05")
    override(small_recipe("phases.1.lr_min=0.001"), [flag.removeprefix("--set=") for flag in below.flags])


def test_advice_where_it_does_not_fit():
    lost = trial(1e-1, [], [], diverged=True)
    everything_lost = advice_on(lost)
    assert not everything_lost.fits
    assert everything_lost.flags == ("--set=optimizer.clip_norm=1",)
    falling = advice_on(trial(1e-3, [2, 1.5, 1.2, 0.8], [0.3, 0.4, 0.6, 0.7]), lost)
    assert not falling.fits
    assert "still falling: try --epochs=12" in "\n".join(falling.text)
    assert "labels" not in "\n".join(falling.text)
    flat = advice_on(trial(1e-3, [1.2, 0.8, 0.8, 0.8], [0.3, 0.7, 0.7, 0.7]), lost)
    assert "Give it more to train" in "\n".join(flat.text)
    assert flat.flags == ("--set=phases.1.lr_max=0.001",)
