"""Reads the records of an epoch: streamed from the shards, or held in memory, encoded or decoded.

The order never depends on which (`order.epoch_order`), only the cost does. All give the same columns, except that a
decoded image is given by its offset among all decoded images, and one that lies on the accelerator by its number.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import tempfile

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline import order
from pipeline.augment.random_bits import mix_tensor
from pipeline.command import DataError, UsageError
from pipeline.decode import decode_jpeg
from pipeline.format import records, storage
from pipeline.format.manifest import DatasetVersion, Manifest, Shard

CACHES = ("auto", "none", "bytes", "pixels", "disk", "device")  # device: see `resident`

# Encoded records held for shuffling; the next window is read meanwhile, so twice that. The first batch waits for the
# first window: small records, of which far more would fit, are bounded by their number.
_WINDOW_BYTES, _WINDOW_RECORDS = 128 << 20, 8192
_READ_BUFFER, _LEAST_READ_BUFFER = 4 << 20, 256 << 10  # of a shard
_READ_BUFFERS = 64 << 20  # of all shards that are open at once
_READERS = 16  # lanes that are read at the same time: hides a store's latency
_READ_BY_TENSORFLOW = ("gs://",)  # shards of other stores are copied to the local disk first
_MEMORY_SHARE = 0.1  # of the machine's memory, for one split
# Read before the first batch. Local shards stream as fast as memory does, so holding them saves little.
_MOST_LOCAL_BYTES, _MOST_REMOTE_BYTES = 128 << 20, 1 << 30
_MOST_LOADING_SECONDS = 1.0
_DECODE_SECONDS = (2e-5, 1.0 / 60e6)  # an image, a pixel; one core
_FEATURES = {
    records.IMAGE: tf.io.FixedLenFeature([], tf.string),
    records.LABEL: tf.io.FixedLenFeature([], tf.int64),
    records.ID: tf.io.FixedLenFeature([], tf.string),
    records.HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    records.WIDTH: tf.io.FixedLenFeature([], tf.int64),
}


def parse(serialized: tf.Tensor, *, num_classes: int) -> dict[str, tf.Tensor]:
    """Parses serialized records `[N]` into columns.

    Returns:
      "encoded" string, "label" int32, "identity" uint64 (a function of the id), "height", "width" int32; all `[N]`.
    """
    example = tf.io.parse_example(serialized, _FEATURES)
    label = example[records.LABEL]
    known = tf.reduce_all((label >= 0) & (label < num_classes))
    with tf.control_dependencies([tf.debugging.Assert(known, [f"a label is not in 0..{num_classes - 1}", label])]):
        label = tf.cast(label, tf.int32)
    return {
        "encoded": example[records.IMAGE],
        "label": label,
        # FarmHash Fingerprint64: the same on every platform.
        "identity": tf.cast(tf.strings.to_hash_bucket_fast(example[records.ID], 2**63 - 1), tf.uint64),
        "height": tf.cast(example[records.HEIGHT], tf.int32),
        "width": tf.cast(example[records.WIDTH], tf.int32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Describes the machine, on which the choice of a cache depends.

    Attributes:
      memory: bytes that this process may use.
      disk: bytes free for temporary files.
      cores: usable processors.
    """

    memory: int
    disk: int
    cores: int

    @classmethod
    def this(cls) -> Machine:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = pathlib.Path("/sys/fs/cgroup/memory.max")  # of a container
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            memory = min(memory, int(text))
        disk = shutil.disk_usage(tempfile.gettempdir()).free
        return cls(memory=memory, disk=disk, cores=len(os.sched_getaffinity(0)))


def choose_cache(
    manifest: Manifest, split: str, *, machine: Machine, remote: bool, whole_pixels: bool
) -> tuple[str, str]:
    """Picks where records are kept between epochs.

    Args:
      remote: whether the shards lie in an object store.
      whole_pixels: whether every image is decoded at full size, so that decoded images can be kept.

    Returns:
      One of `CACHES` except "auto" and "device", and the reason in words.
    """
    shards = manifest.shards(split)
    examples, size = sum(s.examples for s in shards), sum(s.bytes for s in shards)
    pixels = examples * manifest.max_height * manifest.max_width
    seconds = (examples * _DECODE_SECONDS[0] + pixels * _DECODE_SECONDS[1]) / machine.cores
    budget = int(machine.memory * _MEMORY_SHARE)
    if whole_pixels and pixels * 3 <= min(budget, _MOST_REMOTE_BYTES) and seconds <= _MOST_LOADING_SECONDS:
        return "pixels", f"at most {pixels * 3 >> 20} MiB decoded in about {seconds:.1f} s"
    if size <= min(budget, _MOST_REMOTE_BYTES if remote else _MOST_LOCAL_BYTES):
        return "bytes", f"{size >> 20} MiB encoded, within {_MEMORY_SHARE:.0%} of {machine.memory >> 30} GiB of memory"
    if remote and 2 * size < machine.disk:
        return "disk", f"{size >> 20} MiB from an object store, {machine.disk >> 30} GiB free on disk"
    where = "in an object store, too much for memory and disk" if remote else "on a local disk, fast enough to stream"
    return "none", f"{size >> 20} MiB {where}"


def window(manifest: Manifest, split: str) -> int:
    """Counts the records that are shuffled together; from the manifest alone, so every machine has the same order."""
    shards = manifest.shards(split)
    examples, size = sum(s.examples for s in shards), sum(s.bytes for s in shards)
    return max(1, min(examples, _WINDOW_RECORDS, _WINDOW_BYTES * examples // max(size, 1)))


def train_order(manifest: Manifest, split: str, *, batch_size: int, seed: int, epoch: int) -> order.EpochOrder:
    """Returns the order in which an epoch of a split is trained on."""
    counts = tuple(shard.examples for shard in manifest.shards(split))
    size = window(manifest, split)
    return order.EpochOrder(counts=counts, batch_size=batch_size, window=size, seed=seed, epoch=epoch)


def eval_order(manifest: Manifest, split: str, *, batch_size: int) -> order.EpochOrder:
    """Returns the order in which several hosts evaluate a split, each its own lanes."""
    return dataclasses.replace(train_order(manifest, split, batch_size=batch_size, seed=0, epoch=0), shuffled=False)


def stream(data: DatasetVersion, split: str, *, first: int = 0) -> tf.data.Dataset:
    """Streams serialized records in file order, from number `first` on; opens no shard that ends before it."""
    ends = np.cumsum([shard.examples for shard in data.manifest.shards(split)])
    shard = int(np.searchsorted(ends, first, side="right"))
    before = first - (int(ends[shard - 1]) if shard else 0)
    return tf.data.TFRecordDataset(data.shard_paths(split)[shard:], buffer_size=_READ_BUFFER).skip(before)


def lane_stream(
    data: DatasetVersion, split: str, epoch_order: order.EpochOrder, *, lanes: range, skip_batches: int
) -> tf.data.Dataset:
    """Streams the records that some lanes give to an epoch's batches.

    Lane after lane yields its part of a batch. A lane opens the shard in which it begins, after `skip_batches` batches,
    and reads what comes before in that shard, and no other.

    Args:
      data: the dataset.
      split: its split.
      epoch_order: its order.
      lanes: which of them.
      skip_batches: batches to leave out at the start.

    Returns:
      (serialized record, float32 weight: 0 where it only fills the last batch).
    """
    starts = epoch_order.starts(lanes, skip_batches=skip_batches)
    window, total = epoch_order.lane_window, epoch_order.batches * epoch_order.part
    base = int(starts["first_shard"].min())
    paths = data.shard_paths(split)
    own = epoch_order.shards[base : int(starts["last_shard"].max()) + 1]
    own_paths = tf.constant([paths[shard] for shard in own])
    key = tf.constant(epoch_order.window_key, tf.uint64)
    buffer = max(_LEAST_READ_BUFFER, min(_READ_BUFFER, _READ_BUFFERS // len(lanes)))

    @tf.autograph.experimental.do_not_convert
    def records_of(lane: dict[str, tf.Tensor]) -> tf.data.Dataset:
        shards = tf.data.Dataset.range(lane["first_shard"] - base, lane["last_shard"] - base + 1)
        records = shards.flat_map(lambda shard: tf.data.TFRecordDataset(own_paths[shard], buffer_size=buffer))
        records = records.skip(lane["before"]).take(lane["count"])

        @tf.autograph.experimental.do_not_convert
        def permute(number: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            found = tf.shape(serialized, tf.int64)[0]
            at = lane["window"] * window + number * window + tf.range(found)
            if epoch_order.shuffled:
                ranks = mix_tensor(tf.bitwise.bitwise_xor(tf.cast(lane["begin"] + at, tf.uint64), key))
                # Ranked by 63 bits: TensorFlow sorts no unsigned numbers.
                ranks = tf.cast(tf.bitwise.right_shift(ranks, tf.constant(1, tf.uint64)), tf.int64)
                order_of_window = tf.argsort(ranks, stable=True)
            else:
                order_of_window = tf.range(tf.shape(serialized)[0])
            is_last = at[-1] + 1 == lane["size"]
            wanted = found + tf.where(is_last, total - lane["size"], tf.constant(0, tf.int64))
            chosen = tf.gather(order_of_window, tf.range(wanted) % found)
            return tf.gather(serialized, chosen), tf.cast(tf.range(wanted) < found, tf.float32)

        permuted = records.batch(window).enumerate().map(permute).prefetch(1).unbatch()
        return permuted.skip(lane["within"])

    return tf.data.Dataset.from_tensor_slices(starts).interleave(
        records_of,
        cycle_length=len(lanes),
        block_length=epoch_order.part,
        num_parallel_calls=min(len(lanes), _READERS) if len(lanes) > 1 else None,
        deterministic=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Holds a split in memory, in file order.

    Attributes:
      rows: "label" int32, "identity" uint64, "height", "width" int32, all `[N]`; and "encoded" string `[N]` where the
        images are kept encoded, or "offset" int64 `[N]` into `pixels`, or "position" int32 `[N]` among the images of
        all splits. Arrays where the images are elsewhere: they go into the dataset's graph, to whatever host runs it.
      pixels: uint8, all decoded images end to end, or None.
    """

    rows: dict[str, tf.Tensor | np.ndarray]
    pixels: tf.Tensor | None = None


_loaded: dict[tuple[str, str, str], Columns] = {}


def load(data: DatasetVersion, split: str, cache: str) -> Columns:
    """Reads a split into memory, once a process.

    Args:
      cache: "bytes", "pixels" or "device".
    """
    key = (str(data.path), split, cache)
    if key not in _loaded:
        columns = read_columns(data, split, decode=cache == "pixels")
        if cache == "device":
            rows = {name: np.asarray(column) for name, column in columns.rows.items() if name != "encoded"}
            first = first_position(data.manifest, split)
            rows["position"] = np.arange(first, first + len(rows["label"]), dtype=np.int32)
            columns = Columns(rows=rows)
        _loaded[key] = columns
    return _loaded[key]


def first_position(manifest: Manifest, split: str) -> int:
    """Returns the number of a split's first image where those of all splits are numbered one after the other."""
    before = itertools.takewhile(lambda name: name != split, manifest.splits)
    return sum(manifest.num_examples(name) for name in before)


def read_columns(data: DatasetVersion, split: str, *, decode: bool) -> Columns:
    """Reads a split, its images encoded or decoded.

    Raises:
      DataError: a shard does not hold as many records as the manifest says, or an image is of another size than its
        record says.
    """
    shards = [shard for shard in data.manifest.shards(split) if shard.examples]
    num_classes = data.manifest.num_classes

    @tf.autograph.experimental.do_not_convert
    def whole_shard(path: tf.Tensor) -> dict[str, tf.Tensor]:
        payloads = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER).batch(1 << 31)
        return parse(payloads.get_single_element(), num_classes=num_classes)

    paths = [storage.join(data.path, shard.name) for shard in shards]
    read = tf.data.Dataset.from_tensor_slices(paths).map(whole_shard, num_parallel_calls=8, deterministic=True)
    # Nothing is asked for beyond the last one: on another host, of a TPU, the end is an error that comes at any moment.
    parts = list(itertools.islice(read, len(paths)))
    for shard, part in zip(shards, parts, strict=True):
        if len(part["label"]) != shard.examples:
            raise DataError(
                f"shard {shard.name} holds {len(part['label'])} records, its manifest says {shard.examples}"
            )
    rows = {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
    if not decode:
        return Columns(rows=rows)
    images = tf.data.Dataset.from_tensor_slices(rows.pop("encoded")).map(
        lambda encoded: tf.reshape(decode_jpeg(encoded, index=tf.constant(0), count=1), [-1]),
        num_parallel_calls=len(os.sched_getaffinity(0)),
        deterministic=True,
    )
    sizes = rows["height"].numpy().astype(np.int64) * rows["width"].numpy() * 3
    offsets = np.cumsum(sizes) - sizes
    pixels = np.empty(int(sizes.sum()), np.uint8)
    decoded = itertools.islice(images.as_numpy_iterator(), len(sizes))
    for number, (offset, size, image) in enumerate(zip(offsets, sizes, decoded, strict=True)):
        if len(image) != size:
            raise DataError(
                f"{split}: image {number} has another size than its record says; `python -m pipeline.verify "
                f"{data.path}` lists all such, --skip_bad_records trains without them"
            )
        pixels[offset : offset + size] = image
    return Columns(rows={**rows, "offset": tf.constant(offsets)}, pixels=tf.constant(pixels))


def on_local_disk(data: DatasetVersion, split: str, directory: storage.Path | None = None) -> DatasetVersion:
    """Copies a split's shards to a local directory, unless they are there, and returns the dataset that lies there.

    Raises:
      DataError: a shard's checksum is not the manifest's.
    """
    root = directory or os.path.join(tempfile.gettempdir(), f"tpu-retraining-{os.getuid()}")
    local = storage.join(root, hashlib.sha256(data.manifest.to_json().encode()).hexdigest()[:16])
    storage.make_folder(local)
    for shard in data.manifest.shards(split):
        target = storage.join(local, shard.name)
        if not storage.exists(target):
            _copy_shard(storage.join(data.path, shard.name), target, shard)
    return DatasetVersion(path=local, manifest=data.manifest)


def readable(data: DatasetVersion, split: str) -> DatasetVersion:
    """Returns the dataset where TensorFlow can read a split: a local copy, if it does not know the store."""
    if storage.is_remote(data.path) and not os.fspath(data.path).startswith(_READ_BY_TENSORFLOW):
        return on_local_disk(data, split)
    return data


def _copy_shard(source: str, target: str, shard: Shard) -> None:
    digest = hashlib.sha256()
    with storage.open_file(source) as file, storage.whole_file(target, shared=True) as copy:
        while chunk := file.read(_READ_BUFFER):
            digest.update(chunk)
            copy.write(chunk)
        if digest.hexdigest() != shard.sha256:
            raise DataError(
                f"shard {source}: its sha256 is not the manifest's; run the build's command again with --repair"
            )


@functools.lru_cache
def _log_choice(split: str, cache: str, reason: str) -> None:
    """Logs a choice once, although every epoch opens its source anew."""
    logging.info("%s: cache=%s (%s)", split, cache, reason)


def open_source(
    data: DatasetVersion, split: str, *, cache: str, whole_pixels: bool
) -> tuple[DatasetVersion, Columns | None]:
    """Applies a cache to a split.

    Args:
      cache: one of `CACHES`; "auto" chooses and logs the reason, once a split.
      whole_pixels: whether every image is decoded at full size.

    Returns:
      Where to stream from, and the split in memory where it is held there.

    Raises:
      UsageError: an unknown cache, or "pixels" or "device" for images that are reduced while decoding.
    """
    if cache not in CACHES:
        raise UsageError(f'no cache "{cache}"; known: {", ".join(CACHES)}')
    if cache in ("pixels", "device") and not whole_pixels:
        raise UsageError(f"cache={cache} keeps whole decoded images, but these are reduced while decoding; use bytes")
    data = readable(data, split)
    if cache == "auto":
        remote = storage.is_remote(data.path)
        machine = Machine.this()
        cache, reason = choose_cache(data.manifest, split, machine=machine, remote=remote, whole_pixels=whole_pixels)
        _log_choice(split, cache, reason)
    if cache == "disk":
        return on_local_disk(data, split), None
    return data, load(data, split, cache) if cache != "none" else None
