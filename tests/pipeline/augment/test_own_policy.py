"""Tests policies that users write: pure functions of image and seed, the same wherever and whenever they run."""

import dataclasses

import numpy as np
import pytest

from pipeline import residence
from pipeline.augment.config import AugmentConfig
from pipeline.augment.own_policy import own_policy
from pipeline.batching import HostSlice
from pipeline.command import UsageError
from pipeline.contact_sheet import first_records, render_epochs
from pipeline.dataset import eval_dataset, train_dataset
from pipeline.view import STRETCH
from tests.datasets import random_records, write_dataset

BODY = """
import numpy as np
import tensorflow as tf

def sometimes(image, seed):
    if tf.random.stateless_uniform([], seed) < 0.5:
        image = 255.0 - image
    return image + 1000 * tf.random.stateless_uniform([3], seed + 1, minval=-0.02, maxval=0.02)

def reddest(image, seed):
    return tf.stack([tf.fill(image.shape[:2], 300.0), image[..., 1], image[..., 2] - 300.0], axis=-1)

def by_numpy(image, seed):
    return image * float(np.random.default_rng().uniform(0.5, 1))

def by_state(image, seed):
    return image * tf.random.uniform([])

def smaller(image, seed):
    return image[1:]

def nothing(image, seed):
    image * 2.0

def needs_room(image, seed):
    return tf.image.resize(tf.image.stateless_random_crop(image, [12, 12, 3], seed), image.shape[:2])

def broken(image, seed):
    if seed[0] > 3:
        image = tf.matmul(image, seed)
    return image
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "policies.py"
    file.write_text(BODY)
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": random_records(21, classes=3)}, ["a", "b", "c"])


def epoch_of(data, augment, *, epoch=0, batch=4, hosts=1, **more):
    """Returns label and pixels of every image, by its place in the epoch's order."""
    found = []
    parts = [
        train_dataset(
            data, "train", height=16, width=16, preprocess="identity", augment=augment, seed=3, epoch=epoch,
            global_batch_size=batch, host=HostSlice(index=index, count=hosts), **more,
        )
        for index in range(hosts)
    ]  # fmt: skip
    for batches in zip(*parts, strict=True):
        for element in batches:
            real = element["weight"].numpy() > 0
            found += list(element["image"].numpy()[real])
    return np.stack(found)


def as_set(images):
    return {image.tobytes() for image in images}


def test_an_image_is_a_function_of_seed_epoch_and_record_alone(data, file):
    augment = AugmentConfig(flip=True, shift=0.1, brightness=0.1, policy=f"{file}:sometimes")
    first = epoch_of(data, augment)
    assert len(as_set(first)) == 21
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(epoch_of(data, augment, skip_batches=2), first[8:])
    for other in ({"batch": 7}, {"cache": "pixels"}, {"batch": 4, "hosts": 2}):
        assert as_set(epoch_of(data, augment, **other)) == as_set(first), other
    assert not as_set(epoch_of(data, augment, epoch=1)) & as_set(first)
    inverted = [image.mean() for image in first - epoch_of(data, dataclasses.replace(augment, policy=""))]
    assert 3 < sum(abs(change) > 25 for change in inverted) < 21  # some, not all


def test_it_comes_last_is_cut_off_and_leaves_evaluation_alone(data, file):
    augment = AugmentConfig(brightness=0.2, policy=f"{file}:reddest")
    images = epoch_of(data, augment)
    assert (images[..., 0] == 255).all()
    assert (images[..., 2] == 0).all()
    evaluation = eval_dataset(data, "train", height=16, width=16, preprocess="identity", global_batch_size=21)
    assert (next(iter(evaluation))["image"].numpy()[..., 0] < 255).any()


def test_images_are_mixed_after_it(data, file):
    mixed = epoch_of(data, AugmentConfig(mixup=1.0, policy=f"{file}:reddest"))
    assert (mixed[..., 0] == 255).all()


def test_the_preview_shows_what_training_sees(data, file):
    config = AugmentConfig(flip=True, policy=f"{file}:sometimes")
    serialized = first_records(data, "train", 5)
    pixels, captions = render_epochs(
        data, serialized, config=config, height=16, width=16, view=STRETCH, seed=3, epochs=2
    )
    for epoch in range(2):
        seen = as_set(np.round(epoch_of(data, config, epoch=epoch)).astype(np.uint8))
        assert as_set(pixels[:, 1 + epoch]) <= seen
    assert "policies.py:sometimes" in captions[0][1]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("by_numpy", "gives other pixels for the same image and seed.*stateless_uniform"),
        ("by_state", "gives other pixels for the same image and seed"),
        ("smaller", r"returns SymbolicTensor of the shape \(15, 16, 3\), not an image of the shape \(16, 16, 3\)"),
        ("nothing", "returns NoneType, not an image"),
        ("broken", r"policies\.py:\d+: "),
        ("no_such", r'no function "no_such" in it; it defines sometimes'),
    ],
)
def test_what_will_not_do_is_refused_with_its_reason(file, function, says):
    with pytest.raises(UsageError, match=says) as raised:
        own_policy(f"{file}:{function}", height=16, width=16)
    assert len(str(raised.value).splitlines()) == 1


def test_it_is_tried_on_images_of_the_size_that_it_gets(file):
    assert own_policy(f"{file}:needs_room", height=20, width=16)
    with pytest.raises(UsageError, match=r"policies\.py:\d+: InvalidArgumentError: assertion failed: .*Need"):
        own_policy(f"{file}:needs_room", height=8, width=8)


def test_a_line_of_the_users_file_is_named(file):
    line = next(i for i, text in enumerate(BODY.splitlines(), 1) if "matmul" in text)
    with pytest.raises(UsageError, match=rf"policies\.py:{line}: "):
        own_policy(f"{file}:broken", height=16, width=16)


def test_the_device_is_refused_with_the_reason(data, file):
    policy = f"{file}:sometimes"
    with pytest.raises(ValueError, match="on_accelerator cannot be combined with policy=.*which the host applies"):
        AugmentConfig(policy=policy, on_accelerator=True)
    augment = AugmentConfig(policy=policy)
    why = residence.obstacle(data.manifest, augment, height=16, width=16, view=STRETCH)
    assert why == f"policy={policy} is applied to images on the host"
    with pytest.raises(UsageError, match="cache=device: policy="):
        epoch_of(data, augment, cache="device")


def test_a_policy_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match='no policy "randaug"; there are .* or write FILE.py.* Did you mean "randaug'):
        AugmentConfig(policy="randaug")
