"""Tests training on images that lie on the devices, and the choice of where images lie."""

import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipeline import residence as kept
from pipeline.command import CommandError, TryAgainError, UsageError
from pipeline.reader import CACHES
from tests.trainer.runs import small_recipe, train, weights
from trainer import request
from trainer.devices.tpus import GIB
from trainer.train import obstacle, residence

AUGMENT = (
    "augment.rotation=0", "augment.shift=0.1", "augment.zoom=0.2", "augment.flip=true", "augment.contrast=0.3",
    "augment.cutout_count=1", "augment.cutout_size=0.3", "phases.1.augment=true", "phases.1.duration=1ep",
)  # fmt: skip


def _losses(trainer):
    return [row["loss"] for row in trainer.rows]


def _stop_after(calls):
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


def _checkpoint_bytes(run):
    return max(file.stat().st_size for file in (run / "checkpoints" / "state").glob("*.data-*"))


@pytest.fixture(scope="module")
def recipe():
    return small_recipe(*AUGMENT, "ema_decay=0.9")


@pytest.fixture(scope="module")
def on_device(tiny_data, recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("device")
    trainer, classifier, _ = train(tiny_data, recipe, run, cache="device")
    return run, trainer, weights(classifier)


@pytest.mark.slow
def test_it_trains_as_from_the_hosts_memory(tiny_data, recipe, on_device, tmp_path):
    run, here, _ = on_device
    host, _, _ = train(tiny_data, recipe, tmp_path, cache="pixels")
    assert _losses(here) == pytest.approx(_losses(host), rel=1e-4)
    for split in ("validation", "test"):
        for one, other in zip(
            here.predictor.log_probabilities(split), host.predictor.log_probabilities(split), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-3)
    size = kept.size(tiny_data.manifest)
    assert size == 61 * 16 * 16 * 3
    assert abs(_checkpoint_bytes(run) - _checkpoint_bytes(tmp_path)) < size / 100


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_in_the_same_place(tiny_data, recipe, on_device, tmp_path):
    run, _, expected = on_device
    with pytest.raises(TryAgainError):
        train(tiny_data, recipe, tmp_path, cache="device", stop_requested=_stop_after(8))
    _, classifier, _ = train(tiny_data, recipe, tmp_path, cache="device")
    for path, value in weights(classifier).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_two_replicas_mix_their_pieces_as_the_host_mixes_the_batch(tiny_data, tmp_path, two_replicas):
    recipe = small_recipe(*AUGMENT, "head.dropout=0", "augment.mixup=0.4", "augment.cutmix=1", "accumulate=2")
    first, second = (
        train(tiny_data, recipe, tmp_path / cache, cache=cache, strategy=two_replicas)[0]
        for cache in ("device", "pixels")
    )
    assert _losses(first) == pytest.approx(_losses(second), rel=2e-3)
    with pytest.raises(UsageError, match="--cache=device: .* 2 replicas pieces of 1; --set=batch_size=16 works"):
        train(tiny_data, small_recipe(*AUGMENT, "augment.mixup=0.4", "accumulate=4"), tmp_path / "odd",
              cache="device", strategy=two_replicas)  # fmt: skip


def test_a_batch_that_went_wrong_is_kept_with_its_images(tiny_data, tmp_path):
    recipe = small_recipe(*AUGMENT, "phases.0.cached_features=false", "phases.0.augment=true", "phases.0.lr_max=1e30",
                          "optimizer.name=sgd")  # fmt: skip
    with pytest.raises(CommandError, match="bad_batch.npz"):
        train(tiny_data, recipe, tmp_path, cache="device")
    with np.load(tmp_path / "bad_batch.npz") as batch:
        assert batch["image"].shape == (8, 16, 16, 3)


def test_a_chip_gives_a_32nd_of_its_memory_and_cifar_fits():
    cifar = 60_000 * 32 * 32 * 3
    assert obstacle.most_bytes("v5e") == int(15.75 * GIB / 32) > cifar
    assert obstacle.most_bytes("v5p") == kept.MOST_BYTES == GIB
    assert obstacle.most_bytes(None) == obstacle.most_bytes("v5e")


@pytest.fixture
def as_tpu(monkeypatch):
    monkeypatch.setattr(residence, "is_tpu", lambda strategy: True)


def test_a_tpu_takes_small_sets_by_itself(tiny_data, recipe, as_tpu, monkeypatch, caplog):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with caplog.at_level(logging.INFO, logger="absl"):
        cache, images = residence.place("auto", recipe, tiny_data, strategy)
        assert (cache, images.pixels.shape) == ("auto", (61, 768))
        assert residence.place("pixels", recipe, tiny_data, strategy) == ("pixels", None)
        turned = small_recipe()
        assert turned.augment.rotation
        assert residence.place("auto", turned, tiny_data, strategy) == ("auto", None)
        padded = small_recipe(*AUGMENT, "resize=pad")
        assert residence.place("auto", padded, tiny_data, strategy) == ("auto", None)
        monkeypatch.setattr(kept, "size", lambda manifest: 600 << 20)
        assert residence.place("auto", recipe, tiny_data, strategy) == ("auto", None)
    assert "images come from the host: rotation=10 cannot be done" in caplog.text
    assert "images come from the host: resize=pad puts grey beside images" in caplog.text
    assert "images come from the host: the decoded images take 600 MiB, and at most 504 MiB" in caplog.text


def test_other_devices_keep_images_only_when_asked(tiny_data, recipe):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    assert residence.place("auto", recipe, tiny_data, strategy) == ("auto", None)
    with pytest.raises(UsageError, match="--cache=device: rotation=10 cannot"):
        residence.place("device", small_recipe(), tiny_data, strategy)


def test_the_hosts_of_a_tpu_see_no_memory_of_this_machine(tiny_data, recipe, as_tpu, monkeypatch):
    monkeypatch.setattr(residence, "reads_elsewhere", lambda strategy: True)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    assert residence.place("auto", recipe, tiny_data, strategy)[0] == "none"
    with pytest.raises(UsageError, match="--cache=disk: the TPU's hosts see nothing"):
        residence.place("disk", recipe, tiny_data, strategy)


def test_workers_of_a_cluster_are_refused(tiny_data, recipe, monkeypatch):
    monkeypatch.setattr(residence, "Workers", lambda strategy: SimpleNamespace(count=2))
    with pytest.raises(UsageError, match="--cache=device: TensorFlow sends no images .* TF_CONFIG"):
        residence.place("device", recipe, tiny_data, tf.distribute.OneDeviceStrategy("CPU:0"))


def test_the_flag_takes_what_there_is():
    assert request.CACHES == CACHES
