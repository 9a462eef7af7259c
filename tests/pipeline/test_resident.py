"""Tests that images rendered where they lie, on the device, are those that the host renders."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from pipeline import reader, residence, resident
from pipeline.augment import render
from pipeline.augment.config import AugmentConfig
from pipeline.batching import HostSlice
from pipeline.command import UsageError
from pipeline.dataset import eval_dataset, train_dataset
from pipeline.resident import Resident
from pipeline.view import View
from tests.datasets import jpeg, random_records, record, smooth_image, write_dataset
from trainer.recipes.load import load_recipe, recipe_names
from trainer.recipes.recipe import DataFacts

HEIGHT, WIDTH = 24, 32
# Grey levels. Without XLA, which fuses products with sums, geometry comes out to the bit; colours are sums over images.
TOLERANCE = 0.01
GEOMETRY = {
    "none": {},
    "far": {"flip": True, "shift": 0.25, "zoom": 0.99},
    "all": {"shift": 0.1, "zoom": 0.2, "random_resized_crop": 0.08},
}
COLOUR = {
    "colour": {"flip": True, "brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05},
    "cutout": {"zoom": 0.2, "cutout_count": 2, "cutout_size": 0.3, "cutout_fill": 127.0},
    "mixup": {"shift": 0.1, "mixup": 0.4},
    "cutmix": {"flip": True, "cutmix": 1.0},
    "both": {"zoom": 0.2, "saturation": 0.2, "mixup": 0.2, "cutmix": 0.5},
}
OPERATIONS = GEOMETRY | COLOUR


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Writes images of many sizes, none of which is the output's, in two splits."""
    rng = np.random.default_rng(3)
    sizes = [(int(h), int(w)) for h, w in rng.integers(9, 44, (41, 2))]
    images = [jpeg(smooth_image(rng, height=h, width=w)) for h, w in sizes]
    records = [record(image, i % 3, name=str(i)) for i, image in enumerate(images)]
    splits = {"train": records[:30], "validation": records[30:]}
    return write_dataset(tmp_path_factory.mktemp("data"), splits, ["a", "b", "c"], shards=3)


@pytest.fixture(scope="module")
def images(data):
    return Resident.load(data, height=HEIGHT, width=WIDTH)


def _train(data, augment, *, batch=8, cache="device", seed=1, epoch=2, **arguments):
    return train_dataset(
        data, "train", height=HEIGHT, width=WIDTH, preprocess="identity", augment=augment, seed=seed, epoch=epoch,
        global_batch_size=batch, cache=cache, **arguments,
    )  # fmt: skip


def _finished(batches, augment, images):
    finish = tf.function(lambda batch: render.finish(batch, augment, "identity", images))
    return [{**batch, "image": finish(batch)} for batch in batches]


def _compare(found, expected, *, most):
    """Compares all pixels, which may be `most` apart, and labels of epochs."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("label", "weight"):
            np.testing.assert_array_equal(one[name], other[name])
        assert np.abs(one["image"].numpy() - other["image"].numpy()).max() <= most


@pytest.mark.parametrize(
    ("resize", "name"),
    [
        pair if pair in (("stretch", "colour"), ("crop", "both")) else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in itertools.product(("stretch", "crop"), OPERATIONS)
    ],
)
def test_the_device_makes_the_pixels_that_the_host_makes(data, images, name, resize):
    augment, view = AugmentConfig(**OPERATIONS[name]), View(resize=resize)
    host = list(_train(data, augment, cache="pixels", view=view))
    here = _finished(_train(data, augment, view=view), augment, images)
    _compare(here, host, most=0 if name in GEOMETRY else TOLERANCE)


def test_what_is_rounded_on_the_way_is_rounded_here_too(data, images):
    augment = AugmentConfig(**OPERATIONS["both"], on_accelerator=True)
    shipped = list(_train(data, augment, cache="none"))
    assert shipped[0]["image"].dtype == tf.uint8
    _compare(_finished(_train(data, augment), augment, images), _finished(shipped, augment, None), most=TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("oxford_pets_resnet", "oxford_pets_resnet50") else name
        for name in recipe_names()
    ],
)
def test_every_recipe_is_rendered_alike_or_refused(data, images, name):
    augment = load_recipe(name, DataFacts(num_train=30, num_classes=3, max_side=44)).augment
    if augment.rotation or augment.shear:
        with pytest.raises(UsageError, match="cache=device: (rotation=.*|shear=.*) cannot be done"):
            _train(data, augment)
        return
    host = list(_train(data, augment, cache="pixels"))
    _compare(_finished(_train(data, augment), augment, images), host, most=TOLERANCE)


def test_no_pixel_depends_on_the_precision_of_products(data, images, xla, monkeypatch):
    """A TPU rounds the factors of all products to bfloat16."""
    augment = AugmentConfig(**GEOMETRY["all"], **COLOUR["colour"], cutout_count=2, cutout_size=0.3, cutmix=1.0)
    batches = list(_train(data, augment))
    whole = xla(lambda batch: render.finish(batch, augment, "identity", images))
    here = [{**batch, "image": whole(batch)} for batch in batches]
    _compare(here, list(_train(data, augment, cache="pixels")), most=TOLERANCE)

    def rounded(product, *, named=0):
        def of_factors(*arguments, **options):
            factors = [tf.cast(factor, tf.bfloat16) for factor in arguments[named:]]
            return tf.cast(product(*arguments[:named], *factors, **options), tf.float32)

        return of_factors

    monkeypatch.setattr(tf, "einsum", rounded(tf.einsum, named=1))
    for module, name in ((tf, "matmul"), (tf.linalg, "matvec")):
        monkeypatch.setattr(module, name, rounded(getattr(module, name)))
    eight_bits = xla(lambda batch: render.finish(batch, augment, "identity", images))
    for batch, expected in zip(batches, here, strict=True):
        np.testing.assert_array_equal(eight_bits(batch), expected["image"])


@pytest.mark.slow
def test_evaluation_is_the_same_and_each_split_has_its_own_images(data, images):
    for split in data.manifest.splits:
        sizes = {"height": HEIGHT, "width": WIDTH, "preprocess": "identity", "global_batch_size": 8}
        views = (View(), View(eval_centre=0.875), View(eval_centre=0.5), View(resize="crop"))
        for rounded, view in itertools.product((False, True), views):
            augment = AugmentConfig(on_accelerator=rounded)
            sizes |= {"on_accelerator": rounded, "view": view}
            host = list(eval_dataset(data, split, **sizes))
            assert host[0]["image"].dtype == (tf.uint8 if rounded else tf.float32)
            here = _finished(eval_dataset(data, split, **sizes, cache="device"), augment, images)
            _compare(here, _finished(host, augment, None), most=0)


def test_small_elements_leave_the_host_with_static_shapes(data):
    augment = AugmentConfig(**OPERATIONS["all"], flip=True, saturation=0.2, cutout_count=1, cutout_size=0.4, cutmix=1.0)
    spec = _train(data, augment).element_spec
    assert {name: one.shape.as_list() for name, one in spec.items()} == {
        "position": [8], "weight": [8], "label": [8, 3], "rows": [8, 2], "columns": [8, 2], "beyond": [8, 4],
        "flip": [8], "matrix": [8, 3, 3], "contrast": [8], "brightness": [8], "cutouts": [8, 1, 4], "box": [8, 3],
    }  # fmt: skip
    assert {one.dtype for one in spec.values()} == {tf.int32, tf.float32}


def _by_position(batches):
    rows = {}
    for batch in batches:
        for at, position in enumerate(batch["position"].numpy()):
            if batch["weight"][at] > 0:
                rows[int(position)] = {name: value[at].numpy() for name, value in batch.items()}
    return rows


@pytest.mark.parametrize(("batch", "hosts"), [(2, 1), (64, 1), (8, 2)])
def test_neither_batches_nor_hosts_change_what_is_drawn(data, batch, hosts):
    augment = AugmentConfig(**OPERATIONS["all"], flip=True, saturation=0.2, hue=0.1, cutout_count=1, cutout_size=0.4)
    expected = _by_position(_train(data, augment))
    found = {}
    for index in range(hosts):
        found |= _by_position(_train(data, augment, batch=batch, host=HostSlice(index=index, count=hosts)))
    assert expected.keys() == found.keys() == set(range(30))
    for position, row in expected.items():
        for name in row:
            np.testing.assert_array_equal(found[position][name], row[name], err_msg=name)


def test_a_resume_goes_on_in_the_order_of_the_other_caches(data):
    augment = AugmentConfig(flip=True)
    whole, host = list(_train(data, augment)), list(_train(data, augment, cache="none"))
    rest = list(_train(data, augment, skip_batches=2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(rest, whole[2:], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert [batch["label"].numpy().tolist() for batch in whole] == [batch["label"].numpy().tolist() for batch in host]


def _manifest(data, *, examples, side):
    shard = dataclasses.replace(data.manifest.shards("train")[0], examples=examples)
    return dataclasses.replace(data.manifest, splits={"train": (shard,)}, max_height=side, max_width=side)


def test_what_does_not_fit_is_refused_with_the_numbers(data, tmp_path):
    of_size = {"height": 32, "width": 32, "view": View()}
    cifar = _manifest(data, examples=60_000, side=32)
    assert residence.size(cifar) == 60_000 * 32 * 32 * 3
    assert residence.obstacle(cifar, AugmentConfig(flip=True, shift=0.1), **of_size) is None
    assert residence.obstacle(cifar, AugmentConfig(), **of_size, limit=100 << 20) == (
        "the decoded images take 175 MiB, and at most 100 MiB are kept on a device"
    )
    photos = _manifest(data, examples=60_000, side=224)
    with pytest.raises(UsageError, match="cache=device: the decoded images take 8613 MiB, and at most 1024 MiB"):
        train_dataset(
            dataclasses.replace(data, manifest=photos), "train", height=224, width=224, preprocess="identity",
            augment=AugmentConfig(), seed=0, epoch=0, global_batch_size=8, cache="device",
        )  # fmt: skip
    for augment, message in (
        (AugmentConfig(rotation=5.0, shear=0.1), "rotation=5 and shear=0.1 cannot be done"),
        (AugmentConfig(shift=0.4, zoom=0.5), "shift=0.4 with zoom=0.5, above 0.5"),
        (AugmentConfig(policy="augmix"), "policy=augmix"),
    ):
        assert message in residence.obstacle(cifar, augment, **of_size)
    large = write_dataset(tmp_path, {"train": random_records(4, classes=2, height=64, width=64)}, ["a", "b"])
    with pytest.raises(UsageError, match="64x64 pixels are reduced to 24x32 while decoding"):
        _train(large, AugmentConfig(), batch=2)


def test_positions_number_all_splits(data):
    decoded = resident.decoded(data)
    assert decoded.shape == (41, data.manifest.max_height * data.manifest.max_width * 3)
    assert reader.first_position(data.manifest, "train") == 0
    assert reader.first_position(data.manifest, "validation") == 30
