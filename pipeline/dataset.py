"""Datasets for training and evaluation: pure functions of (data, seed, epoch, record), exact on any number of hosts."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from pipeline import augment as augment_lib
from pipeline import geometry, order, records
from pipeline.augment import AugmentConfig
from pipeline.cli import UsageError
from pipeline.decode import decode_and_resize, decode_jpeg, usable_ratios
from pipeline.manifest import DatasetVersion
from pipeline.preprocess import check_mode
from pipeline.preprocess import preprocess as preprocess_images
from pipeline.random_bits import stream_key

_WINDOW_BYTES = 256 << 20  # encoded records held for shuffling; the next window is read meanwhile, so twice that
_READ_BUFFER = 4 << 20
_FEATURES = {
    records.IMAGE: tf.io.FixedLenFeature([], tf.string),
    records.LABEL: tf.io.FixedLenFeature([], tf.int64),
    records.ID: tf.io.FixedLenFeature([], tf.string),
    records.HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    records.WIDTH: tf.io.FixedLenFeature([], tf.int64),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSlice:
    """Which part of every global batch this host feeds: the `index`-th of `count` equal parts."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"host index must be in 0..{self.count - 1}, got {self.index}")

    def size(self, global_batch_size: int) -> int:
        """Examples of a global batch that this host feeds; UsageError if the hosts cannot share it equally."""
        if global_batch_size < 1 or global_batch_size % self.count:
            raise UsageError(f"batch size {global_batch_size} must be a positive multiple of the {self.count} hosts")
        return global_batch_size // self.count


def example_ids(data: DatasetVersion, split: str) -> list[str]:
    """Ids of a split's records in the order of `eval_dataset`. Reads every shard."""
    ids = []
    for shard in data.manifest.shards(split):
        with (data.path / shard.name).open("rb") as file:
            ids += [records.decode_example(payload).id for payload in records.read_frames(file)]
    return ids


def _options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # One image is one thread's work: splitting its ops over threads costs more than it gains.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def _host_batches(
    stream: tf.data.Dataset, *, examples: int, global_batch_size: int, skip_batches: int, host: HostSlice
) -> tf.data.Dataset:
    """Serialized records in order → (serialized [b], weight [b]): this host's part of each batch, the last padded."""
    batches = -(-examples // global_batch_size)
    size = host.size(global_batch_size)
    own = slice(host.index * size, (host.index + 1) * size)
    weights = tf.data.Dataset.range(batches * global_batch_size).map(lambda i: tf.cast(i < examples, tf.float32))
    padded = tf.data.Dataset.zip(stream.repeat().take(batches * global_batch_size), weights)
    # No drop_remainder: with a static batch size Grappler would rewrite the arithmetic differently for a batch of one,
    # and an example's parameters would then depend on the batch size in their last bit.
    rest = padded.skip(skip_batches * global_batch_size).batch(global_batch_size)
    return rest.map(lambda record, weight: (record[own], weight[own]))


def _window(data: DatasetVersion, split: str) -> int:
    shards = data.manifest.shards(split)
    examples, size = sum(s.examples for s in shards), sum(s.bytes for s in shards)
    return max(1, min(examples, _WINDOW_BYTES * examples // max(size, 1)))


def _epoch_stream(data: DatasetVersion, split: str, *, seed: int, epoch: int) -> tf.data.Dataset:
    """The serialized records of one epoch in the order of `order.epoch_order`."""
    shards = data.manifest.shards(split)
    window = _window(data, split)
    paths = np.array(data.shard_paths(split))[order.shard_order(len(shards), seed=seed, epoch=epoch)]
    stream = (
        tf.data.Dataset.from_tensor_slices(paths)
        .batch(order.INTERLEAVE)
        .flat_map(
            lambda group: tf.data.Dataset.from_tensor_slices(group).interleave(
                lambda path: tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER),
                cycle_length=order.INTERLEAVE,
                block_length=order.BLOCK,
            )
        )
    )
    examples = data.manifest.num_examples(split)
    permutation = order.window_permutation(examples, window=window, seed=seed, epoch=epoch)
    local = tf.data.Dataset.from_tensor_slices(permutation % window).batch(window)
    return tf.data.Dataset.zip(stream.batch(window), local).map(tf.gather).prefetch(1).unbatch()


def _finish(dataset: tf.data.Dataset, *, size: int, mode: str) -> tf.data.Dataset:
    batched = dataset.batch(size, drop_remainder=True)
    return _options(
        batched.map(lambda e: {**e, "image": preprocess_images(e["image"], mode)}).prefetch(tf.data.AUTOTUNE)
    )


def train_dataset(
    data: DatasetVersion,
    split: str,
    *,
    height: int,
    width: int,
    preprocess: str,
    augment: AugmentConfig,
    seed: int,
    epoch: int,
    global_batch_size: int,
    skip_batches: int = 0,
    host: HostSlice = HostSlice(),
) -> tf.data.Dataset:
    """One epoch of training batches.

    The order depends on (seed, epoch) alone, an example's pixels on (seed, epoch, its id) alone. Over all hosts every
    example comes exactly once; the last batch is filled with examples of the same epoch at weight 0.

    Args:
      skip_batches: batches of this epoch already trained on; skipped before anything is decoded.
      host: the part of each global batch that this host feeds.

    Returns:
      `ceil(N / global_batch_size) - skip_batches` elements {"image": float32 `[b, height, width, 3]` preprocessed,
      "label": int32 `[b]`, "weight": float32 `[b]`}, b = global_batch_size / host.count.

    Raises:
      UsageError: unknown split or preprocessing, or the hosts cannot share a batch equally.
    """
    check_mode(preprocess)
    key = tf.constant(stream_key(seed=seed, epoch=epoch, purpose="augment"), tf.uint64)
    batches = _host_batches(
        _epoch_stream(data, split, seed=seed, epoch=epoch),
        examples=data.manifest.num_examples(split),
        global_batch_size=global_batch_size,
        skip_batches=skip_batches,
        host=host,
    )

    largest = (data.manifest.max_height, data.manifest.max_width)
    count = usable_ratios(source_height=largest[0], source_width=largest[1], height=height, width=width)

    def parse(serialized: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        example = tf.io.parse_example(serialized, _FEATURES)
        # FarmHash Fingerprint64 of the id: the same on every platform.
        identity = tf.cast(tf.strings.to_hash_bucket_fast(example[records.ID], 2**63 - 1), tf.uint64)
        heights, widths = example[records.HEIGHT], example[records.WIDTH]
        aspect = tf.cast(widths, tf.float32) / tf.cast(heights, tf.float32)
        drawn = augment_lib.draw(augment, identity, key=key, aspect=aspect, output_aspect=width / height)
        if augment.moves:
            drawn |= geometry.source_windows(drawn["map"], heights, widths, height=height, width=width, count=count)
        label = tf.cast(example[records.LABEL], tf.int32)
        return {"encoded": example[records.IMAGE], "label": label, "weight": weight, **drawn}

    def render(e: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        encoded = e["encoded"]
        if not augment.moves:
            image = decode_and_resize(encoded, height=height, width=width, largest=largest)
        elif augment.is_window:
            image = geometry.decode_window(
                encoded, e, height=height, width=width, count=count, overhangs=augment.shift > 0 or augment.zoom > 0
            )
        else:
            image = geometry.warp(
                decode_jpeg(encoded, index=e["ratio"], count=count), e["map"], height=height, width=width
            )
        if augment.recolours:
            image = augment_lib.recolour(image, e["matrix"], e["contrast"], e["brightness"])
        if augment.cutout_count:
            image = augment_lib.cut_out(image, e["cutouts"], fill=augment.cutout_fill)
        return {"image": image, "label": e["label"], "weight": e["weight"]}

    images = batches.map(parse).unbatch().map(render, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(images, size=host.size(global_batch_size), mode=preprocess)


def eval_dataset(
    data: DatasetVersion,
    split: str,
    *,
    height: int,
    width: int,
    preprocess: str,
    global_batch_size: int,
    host: HostSlice = HostSlice(),
) -> tf.data.Dataset:
    """All examples of a split in file order, without augmentation; elements as in `train_dataset`."""
    check_mode(preprocess)
    stream = tf.data.TFRecordDataset(data.shard_paths(split), buffer_size=_READ_BUFFER)
    batches = _host_batches(
        stream,
        examples=data.manifest.num_examples(split),
        global_batch_size=global_batch_size,
        skip_batches=0,
        host=host,
    )

    largest = (data.manifest.max_height, data.manifest.max_width)

    def parse(serialized: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        example = tf.io.parse_example(serialized, _FEATURES)
        return {
            "encoded": example[records.IMAGE],
            "label": tf.cast(example[records.LABEL], tf.int32),
            "weight": weight,
        }

    def render(e: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = decode_and_resize(e["encoded"], height=height, width=width, largest=largest)
        return {"image": image, "label": e["label"], "weight": e["weight"]}

    images = batches.map(parse).unbatch().map(render, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(images, size=host.size(global_batch_size), mode=preprocess)
