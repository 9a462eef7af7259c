"""Tests the contracts of training and evaluation data on real files, by comparing whole epochs bit by bit."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from pipeline import reader
from pipeline.augment import render
from pipeline.augment.config import AugmentConfig
from pipeline.batching import Batching, HostSlice
from pipeline.command import UsageError
from pipeline.dataset import eval_dataset, example_ids, train_dataset
from pipeline.decode import decode_and_resize
from pipeline.view import View
from tests.datasets import jpeg, random_records, record, write_dataset

N = 53
EVERYTHING = AugmentConfig(
    flip=True,
    shift=0.1,
    zoom=0.2,
    random_resized_crop=0.5,
    brightness=0.1,
    contrast=0.2,
    saturation=0.3,
    hue=0.05,
    cutout_count=2,
    cutout_size=0.3,
)
WARPED = AugmentConfig(flip=True, rotation=20.0, shear=0.2, zoom=0.2, shift=0.1, saturation=0.3, hue=0.1)
CENTRE = View(eval_centre=0.7)
CONFIGS = {"windows": EVERYTHING, "warped": WARPED}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_dataset(root, {"train": random_records(N, classes=3)}, ["a", "b", "c"], shards=4)


def _train(data, batch, *, split="train", augment=EVERYTHING, seed=1, epoch=2, cache="none", **arguments):
    dataset = train_dataset(
        data,
        split,
        height=24,
        width=32,
        preprocess="tf",
        augment=augment,
        seed=seed,
        epoch=epoch,
        global_batch_size=batch,
        cache=cache,
        **arguments,
    )
    return list(dataset.as_numpy_iterator())


def _eval(data, batch, *, split="train", cache="none", **arguments):
    sizes = {"height": 24, "width": 32, "preprocess": "tf", "global_batch_size": batch, "cache": cache}
    return list(eval_dataset(data, split, **{**sizes, **arguments}).as_numpy_iterator())


def _join(batches):
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return {name: values[joined["weight"] > 0] for name, values in joined.items()}


def _assert_same(first, second):
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def _sorted(run):
    order = sorted(range(len(run["image"])), key=lambda i: run["image"][i].tobytes())
    return {name: values[order] for name, values in run.items()}


def _order(data, *, batch, seed, epoch):
    """Returns the positions in file order of all records in the order of training."""
    order = reader.train_order(data.manifest, "train", batch_size=batch, seed=seed, epoch=epoch)
    positions, valid = order.batches_of_positions()
    return positions[valid]


@pytest.fixture(scope="module", params=CONFIGS, ids=list(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def epoch(data, config):
    return _join(_train(data, 8, augment=config))


def test_elements_are_as_promised(data):
    batches = _train(data, 8)
    assert len(batches) == 7
    for batch in batches:
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "image": ((8, 24, 32, 3), "float32"),
            "label": ((8,), "int32"),
            "weight": ((8,), "float32"),
        }
    weights = np.concatenate([b["weight"] for b in batches])
    assert weights[:48].all()
    assert sorted(weights[48:]) == [0.0] * 3 + [1.0] * 5
    known = {
        (image.tobytes(), label) for b in batches[:-1] for image, label in zip(b["image"], b["label"], strict=True)
    }
    last = batches[-1]
    known |= {(last["image"][i].tobytes(), last["label"][i]) for i in np.flatnonzero(last["weight"])}
    for i in np.flatnonzero(last["weight"] == 0):  # filled with examples of the epoch
        assert (last["image"][i].tobytes(), last["label"][i]) in known


@pytest.mark.parametrize("batch", [1, 64])
def test_the_batch_size_changes_no_bit(data, config, epoch, batch):
    """It may change the order."""
    _assert_same(_sorted(epoch), _sorted(_join(_train(data, batch, augment=config))))


@pytest.mark.parametrize(
    ("config", "hosts"),
    [
        ("windows", 4),
        pytest.param("warped", 4, marks=pytest.mark.slow),
        ("warped", 2),
        pytest.param("windows", 2, marks=pytest.mark.slow),
    ],
    indirect=["config"],
    scope="module",
)
def test_hosts_share_every_global_batch(data, config, epoch, hosts):
    parts = [_train(data, 8, augment=config, host=HostSlice(index=i, count=hosts)) for i in range(hosts)]
    assert parts[0][0]["image"].shape[0] == 8 // hosts
    batches = [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts, strict=True)]
    _assert_same(epoch, _join(batches))


@pytest.mark.parametrize("cores", [1, 5])
def test_the_number_of_threads_changes_no_bit(data, config, epoch, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    _assert_same(epoch, _join(_train(data, 8, augment=config)))


@pytest.mark.parametrize("cache", ["bytes", "pixels", "disk", "auto"])
def test_the_cache_changes_no_bit(data, config, epoch, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _assert_same(epoch, _join(_train(data, 8, augment=config, cache=cache)))


@pytest.mark.parametrize("cache", ["none", pytest.param("bytes", marks=pytest.mark.slow)])
def test_resuming_at_any_step_gives_the_rest_of_the_epoch(data, cache):
    whole = _train(data, 16, cache=cache)
    for skip in range(len(whole) + 1):
        rest = _train(data, 16, cache=cache, skip_batches=skip)
        assert len(rest) == len(whole) - skip
        for first, second in zip(rest, whole[skip:], strict=True):
            _assert_same(first, second)


def test_nothing_skipped_is_decoded(tmp_path):
    """The first records cannot be decoded, yet a resume after them works."""
    broken = [record(jpeg(np.zeros((24, 32, 3), np.uint8)), 0, name=str(i)) for i in range(8)]
    data = write_dataset(tmp_path, {"train": broken}, ["a"], shards=1)
    positions = _order(data, batch=4, seed=0, epoch=0)[:4]
    for position in positions:
        broken[position] = type(broken[0])(**{**vars(broken[position]), "image": b"\xff\xd8\xff not a JPEG"})
    damaged = write_dataset(tmp_path / "damaged", {"train": broken}, ["a"], shards=1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        _train(damaged, 4, seed=0, epoch=0)
    assert len(_train(damaged, 4, seed=0, epoch=0, skip_batches=1)) == 1


def test_epochs_and_seeds_differ_in_order_and_pixels(data):
    runs = {(s, e): _join(_train(data, 16, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}
    for key, run in runs.items():
        for other in runs:
            if key < other:
                assert (run["label"] != runs[other]["label"]).any()
                assert (run["image"] != runs[other]["image"]).any()


def _colour_coded(tmp_path, count):
    """Writes a dataset whose record i is one colour that says i; its label is a checksum of i."""
    images = [
        jpeg(np.full((24, 32, 3), (4 * (i % 60), 4 * (i // 60), 128), np.uint8), quality=98) for i in range(count)
    ]
    splits = {"train": [record(image, 7 * i % 11, name=str(i)) for i, image in enumerate(images)]}
    return write_dataset(tmp_path, splits, [str(i) for i in range(11)], shards=20)


@pytest.mark.parametrize("cache", ["none", "bytes", "pixels"])
def test_every_example_once_over_all_hosts_and_labels_stay_with_their_images(tmp_path, cache, monkeypatch):
    count = 517
    data = _colour_coded(tmp_path, count)
    monkeypatch.setattr(reader, "_WINDOW_BYTES", sum(s.bytes for s in data.manifest.shards("train")) // 5)
    augment = AugmentConfig(flip=True, shift=0.2, zoom=0.1)
    seen = []
    for index in range(4):
        run = _join(_train(data, 48, augment=augment, host=HostSlice(index=index, count=4), cache=cache))
        red, green, _ = np.moveaxis(np.round((run["image"].mean(axis=(1, 2)) + 1) * 127.5 / 4).astype(int), -1, 0)
        np.testing.assert_array_equal(run["label"], 7 * (red + 60 * green) % 11)
        seen += (red + 60 * green).tolist()
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
def test_the_stream_is_in_the_order_that_is_promised(tmp_path, monkeypatch):
    data = _colour_coded(tmp_path, 517)
    monkeypatch.setattr(reader, "_WINDOW_BYTES", sum(s.bytes for s in data.manifest.shards("train")) // 5)
    ids = np.array(example_ids(data, "train"))
    for batch in (32, 48, 500, 1000, 1, 7):
        order = reader.train_order(data.manifest, "train", batch_size=batch, seed=3, epoch=1)
        positions, valid = order.batches_of_positions()
        for skip in sorted({0, 1, order.batches // 2, order.batches - 1}):
            stream = reader.lane_stream(data, "train", order, lanes=range(order.lanes), skip_batches=skip)
            found = list(stream.as_numpy_iterator())
            streamed = [reader.records.decode_example(payload).id for payload, _ in found]
            assert streamed == ids[positions[skip:].ravel()].tolist(), (batch, skip)
            assert [weight > 0 for _, weight in found] == valid[skip:].ravel().tolist()


@pytest.mark.slow
def test_hosts_read_their_lanes_only_and_every_record_once(tmp_path, monkeypatch):
    """Of 4096 shards, 64 to a lane, 64 hosts read 1.6 % more than their part."""
    image = jpeg(np.zeros((24, 32, 3), np.uint8))
    records = [record(image, 0, name=str(i)) for i in range(4 * 4096 + 11)]
    data = write_dataset(tmp_path, {"train": records}, ["a"], shards=4096)
    order = reader.train_order(data.manifest, "train", batch_size=64, seed=0, epoch=1)
    assert order.lanes == 64
    size = sum(shard.bytes for shard in data.manifest.shards("train"))
    opened = []
    real = tf.data.TFRecordDataset
    sizes = tf.constant([os.path.getsize(path) for path in data.shard_paths("train")])

    def counted(path, **options):
        number = tf.strings.to_number(tf.strings.substr(path, -14, 5), tf.int32)
        tf.py_function(lambda n: opened.append(int(sizes[int(n)])), [number], [])
        return real(path, **options)

    monkeypatch.setattr(tf.data, "TFRecordDataset", counted)
    seen = []
    for host in range(64):
        opened.clear()
        lanes = Batching(examples=len(records), global_batch_size=64, host=HostSlice(index=host, count=64)).lanes(order)
        stream = reader.lane_stream(data, "train", order, lanes=lanes, skip_batches=0)
        seen += [reader.records.decode_example(one).id for one, weight in stream.as_numpy_iterator() if weight]
        assert sum(opened) <= 1.02 * size / 64
    assert len(seen) == len(records)
    assert len(set(seen)) == len(records)


@pytest.mark.parametrize("hosts", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 64)), 8])
def test_batches_are_those_of_one_host_also_after_a_resume(tmp_path, hosts):
    image = jpeg(np.zeros((24, 32, 3), np.uint8))
    records = [record(image, i % 11, name=str(i)) for i in range(1500)]
    data = write_dataset(tmp_path, {"train": records}, [str(i) for i in range(11)], shards=70)
    order = reader.train_order(data.manifest, "train", batch_size=128, seed=2, epoch=3)
    positions, valid = order.batches_of_positions()
    ids = np.array(example_ids(data, "train"))
    for skip in (0, order.batches - 1):
        parts = []
        for index in range(hosts):
            host = HostSlice(index=index, count=hosts)
            lanes = Batching(examples=1500, global_batch_size=128, host=host).lanes(order)
            stream = reader.lane_stream(data, "train", order, lanes=lanes, skip_batches=skip)
            found = [(reader.records.decode_example(one).id, weight > 0) for one, weight in stream.as_numpy_iterator()]
            parts.append(np.array(found, object).reshape(order.batches - skip, 128 // hosts, 2))
        joined = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(joined[..., 0], ids[positions[skip:]])
        np.testing.assert_array_equal(joined[..., 1].astype(bool), valid[skip:])


def test_hosts_that_do_not_divide_the_lanes_are_refused_with_the_numbers(data):
    with pytest.raises(UsageError, match="3 hosts cannot share 1 lanes out equally, .* batch_size=9 and 4 shards"):
        _train(data, 9, host=HostSlice(index=0, count=3))


def test_evaluation_is_in_file_order_without_augmentation(data):
    run = _join(_eval(data, 10))
    np.testing.assert_array_equal(run["label"], np.arange(N) % 3)
    assert example_ids(data, "train") == [r.id for r in random_records(N, classes=3)]
    plain = _join(_train(data, 10, augment=AugmentConfig()))
    positions = _order(data, batch=10, seed=1, epoch=2)
    _assert_same(plain, {name: values[positions] for name, values in run.items()})


@pytest.mark.parametrize("cache", ["none", "bytes", "pixels"])
def test_evaluation_is_the_same_from_any_cache_batch_and_host(data, cache):
    whole = _join(_eval(data, 10))
    for batch, hosts in ((1, 1), (64, 1), (12, 2), (12, 4)):
        parts = [_eval(data, batch, cache=cache, host=HostSlice(index=i, count=hosts)) for i in range(hosts)]
        batches = [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts, strict=True)]
        joined = _join(batches)
        if hosts > 1:
            positions, valid = reader.eval_order(data.manifest, "train", batch_size=batch).batches_of_positions()
            back = np.argsort(positions[valid])
            joined = {name: values[back] for name, values in joined.items()}
        _assert_same(whole, joined)


def test_masked_means_are_exact(data):
    """A mean over weights equals the mean over the examples to 1e-6, whatever the batch size."""
    scores = {}
    for batch in (1, 7, 64):
        batches = _eval(data, batch)
        values = np.concatenate([b["image"].mean(axis=(1, 2, 3)) for b in batches]).astype(np.float64)
        weights = np.concatenate([b["weight"] for b in batches])
        assert weights.sum() == N
        scores[batch] = (values * weights).sum() / weights.sum()
    assert max(scores.values()) - min(scores.values()) < 1e-6


def test_large_images_are_reduced_while_decoding_in_both_paths_alike(tmp_path):
    examples = random_records(9, classes=3, height=120, width=90, seed=1)
    data = write_dataset(tmp_path, {"train": examples}, ["a", "b", "c"])
    run = _join(_eval(data, 4, cache="bytes"))
    plain = _join(_train(data, 4, augment=AugmentConfig()))
    positions = _order(data, batch=4, seed=1, epoch=2)
    _assert_same(plain, {name: values[positions] for name, values in run.items()})
    # A window that is the whole image goes another way to the same pixels.
    _assert_same(_join(_train(data, 4, augment=AugmentConfig(zoom=1e-9))), plain)
    with pytest.raises(UsageError, match="use bytes"):
        _eval(data, 4, cache="pixels")


@pytest.mark.parametrize("cache", ["none", pytest.param("bytes", marks=pytest.mark.slow)])
def test_evaluation_goes_on_behind_any_batch(data, cache):
    whole = _eval(data, 4, cache=cache)
    for skip in range(len(whole)):
        rest = _eval(data, 4, cache=cache, skip_batches=skip)
        assert len(rest) == len(whole) - skip
        for one, other in zip(rest, whole[skip:], strict=True):
            real = other["weight"] > 0
            np.testing.assert_array_equal(one["weight"], other["weight"])
            for name in ("image", "label"):
                np.testing.assert_array_equal(one[name][real], other[name][real])
    host = HostSlice(index=1, count=2)
    _assert_same(_join(_eval(data, 4, host=host, skip_batches=2)), _join(_eval(data, 4, host=host)[2:]))


@pytest.mark.slow
@pytest.mark.parametrize("side", [40, 120])  # of images that are not reduced, and that are
def test_only_the_centre_is_seen_where_nothing_is_moved(tmp_path, side):
    examples = random_records(9, classes=3, height=side, width=side + 20, seed=1)
    data = write_dataset(tmp_path, {"train": examples}, ["a", "b", "c"])
    sizes = {"height": 24, "width": 32}
    expected = [decode_and_resize(tf.constant(r.image), **sizes, view=CENTRE).numpy() / 127.5 - 1 for r in examples]
    for cache in ("none", "pixels") if side == 40 else ("bytes",):
        run = _join(_eval(data, 4, cache=cache, view=CENTRE))
        np.testing.assert_allclose(run["image"], expected, atol=1e-5)
        recoloured = _join(_train(data, 4, augment=AugmentConfig(brightness=1e-9), cache=cache, view=CENTRE))
        positions = _order(data, batch=4, seed=1, epoch=2)
        np.testing.assert_allclose(recoloured["image"], run["image"][positions], atol=1e-5)
    _assert_same(_join(_train(data, 4, view=CENTRE)), _join(_train(data, 4)))


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 0.5}])
def test_mixed_labels_match_mixed_pixels(tmp_path, settings):
    """Images of one colour each, a colour a class: the mean colour tells the share of each class."""
    colours = np.array([[250, 5, 5], [5, 250, 5], [5, 5, 250]], np.uint8)
    images = [jpeg(np.full((24, 32, 3), colours[i % 3], np.uint8), quality=98) for i in range(30)]
    examples = [record(image, i % 3, name=str(i)) for i, image in enumerate(images)]
    data = write_dataset(tmp_path, {"train": examples}, ["r", "g", "b"])
    batches = _train(data, 10, augment=AugmentConfig(**settings))
    labels = np.concatenate([b["label"] for b in batches])
    means = (np.concatenate([b["image"].mean(axis=(1, 2)) for b in batches]) + 1) * 127.5
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
    assert ((labels > 0.05) & (labels < 0.95)).any()
    np.testing.assert_allclose(means, labels @ colours, atol=2.0)
    again = _train(data, 10, augment=AugmentConfig(**settings))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in again]), labels)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(EVERYTHING, marks=pytest.mark.slow),
        WARPED,
        dataclasses.replace(EVERYTHING, mixup=0.4, cutmix=1.0),
    ],
    ids=[*CONFIGS, "mixed"],
)
def test_what_the_accelerator_finishes_is_what_the_host_would_have_made(data, config, xla):
    host = _train(data, 8, augment=config)
    augment = dataclasses.replace(config, on_accelerator=True)
    shipped = _train(data, 8, augment=augment)
    finish = xla(lambda batch: render.finish(batch, augment, "tf"))
    for expected, batch in zip(host, shipped, strict=True):
        assert batch["image"].dtype == np.uint8
        images = finish({k: tf.constant(v) for k, v in batch.items()}).numpy()
        # Rounding to whole levels comes before the colours, which amplify what it changes: half a level at most.
        gain, contrast = np.abs(batch["matrix"]).sum(axis=-1).max(axis=-1), batch["contrast"]
        most = 0.5 * (gain * contrast + np.abs(1 - contrast)) / 127.5 + 1e-5
        if config.mixes:
            most = np.repeat(most.reshape(-1, 2).max(axis=1), 2)  # of a pair
        assert (np.abs(images - expected["image"]) <= most[:, np.newaxis, np.newaxis, np.newaxis]).all()
        assert np.abs(images - expected["image"]).mean() < 0.4 / 127.5
        np.testing.assert_array_equal(batch["label"], expected["label"])
    with pytest.raises(ValueError, match="cannot be combined"):
        AugmentConfig(on_accelerator=True, policy="augmix")


@pytest.mark.parametrize("cache", ["none", pytest.param("bytes", marks=pytest.mark.slow)])
def test_mixing_does_not_depend_on_cache_or_hosts(data, cache):
    augment = dataclasses.replace(EVERYTHING, mixup=0.4, cutmix=1.0)
    whole = _join(_train(data, 8, augment=augment))
    assert N % 2, "the last image's partner is one that fills the batch"
    _assert_same(whole, _join(_train(data, 8, augment=augment, cache=cache)))
    parts = [_train(data, 8, augment=augment, cache=cache, host=HostSlice(index=i, count=2)) for i in range(2)]
    batches = [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts, strict=True)]
    _assert_same(whole, _join(batches))
    with pytest.raises(UsageError, match="must be even, got 7; batch_size=16 would do"):
        _train(data, 14, augment=augment, host=HostSlice(index=0, count=2))


@pytest.mark.slow
def test_a_policy_of_keras_cv_stays_in_range_and_is_named(data):
    batch = _train(data, 8, augment=AugmentConfig(policy="randaugment"))[0]
    assert batch["image"].shape == (8, 24, 32, 3)
    assert batch["image"].min() >= -1.0
    assert batch["image"].max() <= 1.0
    with pytest.raises(ValueError, match='Did you mean "augmix"'):
        AugmentConfig(policy="augmx")


def test_mistakes_are_named(data):
    with pytest.raises(UsageError, match="batch size 7 must be a positive multiple of the 2 hosts"):
        _train(data, 7, host=HostSlice(index=0, count=2))
    with pytest.raises(UsageError, match="no split"):
        _train(data, 7, split="trian")
    with pytest.raises(UsageError, match="no cache"):
        _train(data, 7, cache="ram")
    with pytest.raises(ValueError, match="host index"):
        HostSlice(index=2, count=2)
