"""Makes the datasets of training and evaluation.

They are pure functions of (data, seed, epoch, record), and exact on any number of hosts.
"""

from __future__ import annotations

import os

import tensorflow as tf

from pipeline import reader, residence
from pipeline.augment import resampling
from pipeline.augment.batch import Mix, keras_cv_policy, mix, mix_columns
from pipeline.augment.config import AugmentConfig
from pipeline.augment.own_policy import own_policy, seeds
from pipeline.augment.random_bits import stream_key
from pipeline.augment.render import Renderer, finish_columns, traced_draw, traced_render
from pipeline.batching import ONE_HOST, Batching, HostSlice
from pipeline.command import UsageError
from pipeline.format.manifest import DatasetVersion, Manifest
from pipeline.modes import check_mode
from pipeline.order import file_order
from pipeline.own_code import is_own
from pipeline.preprocess import assert_range
from pipeline.preprocess import preprocess as preprocess_images
from pipeline.view import STRETCH, View


def example_ids(data: DatasetVersion, split: str) -> list[str]:
    """Lists the ids of a split's records in the order of `eval_dataset`. Reads every shard."""
    return [record.id for record in data.read(split)]


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # One image is one thread's work: splitting its operations over threads costs more than it gains.
    options.threading.max_intra_op_parallelism = 1
    # Every number is fixed already, and an iterator that goes away waits for the tuner, on a busy machine for seconds.
    options.autotune.enabled = False
    return options


def _batch_images(
    batches: tf.data.Dataset, renderer: Renderer, columns: reader.Columns | None, *, size: int, mode: str
) -> tf.data.Dataset:
    """Renders batches of columns as batches of preprocessed images, and asserts the range of the first one.

    With `on_accelerator` neither happens here: the images leave as uint8, to be preprocessed in the training step.
    """
    pixels = columns.pixels if columns else None
    augment = renderer.augment
    unfinished = finish_columns(augment) if augment.on_accelerator else []
    mixes = augment.mixes and not augment.on_accelerator
    whole_batch = mixes or augment.policy != ""
    # Image by image where nothing needs whole batches: one image fits a processor's cache, a batch does not.
    trace = traced_render(renderer, None if whole_batch else mode)
    kept = ("label", "weight", *(mix_columns(augment) if mixes else unfinished))

    own = None
    if is_own(augment.policy):
        own = own_policy(augment.policy, height=renderer.height, width=renderer.width)

    @tf.autograph.experimental.do_not_convert
    def render(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = trace(row, pixels)
        return {"image": own(image, row["policy_seed"]) if own else image, **{name: row[name] for name in kept}}

    @tf.autograph.experimental.do_not_convert
    def finish(number: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        images = mix(batch["image"], batch) if mixes else batch["image"]
        if whole_batch:
            images = preprocess_images(images, mode)
        result = {name: batch[name] for name in ("label", "weight", *unfinished)}
        if augment.on_accelerator:
            return {"image": images, **result}
        with tf.control_dependencies([tf.cond(number == 0, lambda: assert_range(images, mode), tf.no_op)]):
            return {"image": tf.identity(images), **result}

    # A fixed number of calls: an autotuned one starts low again every epoch. Twice the cores, because results come out
    # in order: a slow image holds up those that are done.
    calls = 2 * len(os.sched_getaffinity(0))
    images = batches.unbatch().map(render, num_parallel_calls=calls, deterministic=True)
    images = images.batch(size, drop_remainder=True)
    if augment.policy and not own:
        change = keras_cv_policy(augment.policy)
        images = images.map(lambda batch: {**batch, "image": change(batch["image"])})
    return images.enumerate().map(finish).prefetch(2).with_options(_options())


def _batch_positions(batches: tf.data.Dataset, renderer: Renderer, *, size: int) -> tf.data.Dataset:
    """Makes of batches of columns what the accelerator needs to render the images that lie there."""
    kept = ("label", "weight", "position", *resampling.COLUMNS, *finish_columns(renderer.augment))

    @tf.autograph.experimental.do_not_convert
    def choose(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if not renderer.augment.moves:
            batch |= resampling.unmoved_windows(
                batch["height"],
                batch["width"],
                height=renderer.height,
                width=renderer.width,
                view=renderer.view,
            )
        return {name: tf.ensure_shape(batch[name], [size, *batch[name].shape[1:]]) for name in kept}

    return batches.map(choose).prefetch(2).with_options(_options())


def _drawn(batches: tf.data.Dataset, renderer: Renderer, *, num_classes: int, seed: int, epoch: int) -> tf.data.Dataset:
    """Adds to batches of columns what is drawn for each example."""
    augment, size = renderer.augment, {"height": renderer.height, "width": renderer.width}
    key, mix_key, policy_key = (
        tf.constant(stream_key(seed=seed, epoch=epoch, purpose=purpose), tf.uint64)
        for purpose in ("augment", "mix", "policy")
    )
    mixer = Mix(mixup=augment.mixup, cutmix=augment.cutmix, key=mix_key, num_classes=num_classes)
    trace = traced_draw(renderer)

    @tf.autograph.experimental.do_not_convert
    def draw(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        drawn = trace(rows, key)
        if is_own(augment.policy):
            drawn = {**drawn, "policy_seed": seeds(rows["identity"], key=policy_key)}
        return {**drawn, **mixer.draw(rows["label"], rows["identity"], **size)} if augment.mixes else drawn

    return batches.map(draw)


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
    view: View = STRETCH,
    host: HostSlice = ONE_HOST,
    cache: str = "auto",
) -> tf.data.Dataset:
    """Makes one epoch of training batches.

    The order depends on (seed, epoch) alone, an example's pixels on (seed, epoch, its id) alone (with `mixup` or
    `cutmix` also on its partner, which follows from the order; a `policy` of keras-cv is not reproducible). Over all
    hosts every example comes exactly once; the last batch is filled with examples of the same epoch at weight 0.

    Args:
      skip_batches: batches of this epoch already trained on; skipped before anything is decoded.
      view: which part of an image is seen, as in `eval_dataset`, where `augment` does not move it.
      host: the part of each global batch that this host feeds.
      cache: one of `reader.CACHES`; changes the speed only ("device": and pixels within rounding).

    Returns:
      `ceil(N / global_batch_size) - skip_batches` elements {"image": float32 `[b, height, width, 3]` preprocessed,
      "label": int32 `[b]`, or float32 `[b, classes]` with `mixup` or `cutmix`, "weight": float32 `[b]`},
      b = global_batch_size / host.count. With `augment.on_accelerator` the image is uint8, with cache="device" there is
      what `resident.Resident` takes in its place; `render.finish`, given the element, makes the rest of it.

    Raises:
      UsageError: unknown split, preprocessing, policy or cache, the hosts cannot share a batch equally, a host's
        part of it cannot be mixed in pairs, or the images cannot be rendered on the device (`residence.obstacle`).
    """
    check_mode(preprocess)
    manifest = data.manifest
    batching = Batching(
        examples=manifest.num_examples(split), global_batch_size=global_batch_size, host=host, skip=skip_batches
    )
    if augment.mixes and batching.size % 2:
        raise UsageError(
            f"mixup and cutmix mix images in pairs: a host's batch must be even, got {batching.size}; "
            f"batch_size={global_batch_size + host.count} would do"
        )
    renderer = _renderer(manifest, augment, height=height, width=width, view=view, cache=cache)
    data, columns = reader.open_source(data, split, cache=cache, whole_pixels=renderer.ratios == 1)
    order = reader.train_order(manifest, split, batch_size=global_batch_size, seed=seed, epoch=epoch)
    if columns:
        batches = batching.from_memory(columns.rows, *order.batches_of_positions())
    else:
        lanes = batching.lanes(order)
        stream = reader.lane_stream(data, split, order, lanes=lanes, skip_batches=skip_batches)
        batches = batching.from_lanes(stream, num_classes=manifest.num_classes)
    batches = _drawn(batches, renderer, num_classes=manifest.num_classes, seed=seed, epoch=epoch)
    if renderer.resident:
        return _batch_positions(batches, renderer, size=batching.size)
    return _batch_images(batches, renderer, columns, size=batching.size, mode=preprocess)


def _renderer(
    manifest: Manifest, augment: AugmentConfig, *, height: int, width: int, view: View, cache: str
) -> Renderer:
    """Makes the renderer; UsageError where the device, asked for as `cache`, cannot do what it has to."""
    if cache == "device" and (why := residence.obstacle(manifest, augment, height=height, width=width, view=view)):
        raise UsageError(f"cache=device: {why}")
    return Renderer.of(manifest, height=height, width=width, view=view, augment=augment, resident=cache == "device")


def eval_dataset(
    data: DatasetVersion,
    split: str,
    *,
    height: int,
    width: int,
    preprocess: str,
    global_batch_size: int,
    skip_batches: int = 0,
    view: View = STRETCH,
    host: HostSlice = ONE_HOST,
    cache: str = "auto",
    on_accelerator: bool = False,
) -> tf.data.Dataset:
    """Makes batches of all examples of a split, without augmentation; elements as in `train_dataset`.

    They come in file order, on several hosts in that of `reader.eval_order`. `view` says which part of each is seen.
    `on_accelerator` is as in `AugmentConfig`: images leave as uint8, and are rounded for it where they had to be
    resized. The first `skip_batches` are left out; of a split that is streamed, what comes before them is not read.
    """
    check_mode(preprocess)
    manifest = data.manifest
    batching = Batching(
        examples=manifest.num_examples(split), global_batch_size=global_batch_size, host=host, skip=skip_batches
    )
    augment = AugmentConfig(on_accelerator=on_accelerator)
    renderer = _renderer(manifest, augment, height=height, width=width, view=view, cache=cache)
    data, columns = reader.open_source(data, split, cache=cache, whole_pixels=renderer.ratios == 1)
    order = reader.eval_order(manifest, split, batch_size=global_batch_size) if host.count > 1 else None
    if columns:
        places = order.batches_of_positions() if order else file_order(batching.examples, global_batch_size)
        batches = batching.from_memory(columns.rows, *places)
    elif order:
        stream = reader.lane_stream(data, split, order, lanes=batching.lanes(order), skip_batches=skip_batches)
        batches = batching.from_lanes(stream, num_classes=manifest.num_classes)
    else:
        stream = reader.stream(data, split, first=skip_batches * global_batch_size)
        batches = batching.from_stream(stream, num_classes=manifest.num_classes)
    if renderer.resident:
        return _batch_positions(batches, renderer, size=batching.size)
    return _batch_images(batches, renderer, columns, size=batching.size, mode=preprocess)
