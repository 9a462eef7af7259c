"""Measures what the order of training costs at scale, and how well it shuffles.

    python -m benchmarks.lanes

First batch: a manifest of 100 million records in 65,536 shards, of which those shards exist that one host opens first;
time from nothing to the first batch, and the growth of the process' memory meanwhile. Shuffling: 200,000 records in 64
shards; how often two records that are neighbours in a shard come in one batch, in one epoch and in two running, and
how long runs of one label are, against a full shuffle.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from pipeline.command import run_command
from pipeline.order import EpochOrder

_HOSTS = flags.DEFINE_list("hosts", ["1", "8", "64"], "Numbers of hosts, the first of which reads.")
_RUN = flags.DEFINE_integer("run", 0, "Internal: measure the first batch of so many hosts.")
_EXAMPLES, _SHARDS, _BATCH = 100_000_000, 65_536, 4096


def _first_batch(hosts: int) -> str:
    """Runs in a process of its own: the peak of memory never falls."""
    from pipeline import dataset, reader
    from pipeline.augment.config import AugmentConfig
    from pipeline.batching import Batching, HostSlice
    from trainer.preflight.feeding import write_sample

    each = _EXAMPLES // _SHARDS
    with tempfile.TemporaryDirectory() as directory:
        sample = write_sample(pathlib.Path(directory), count=each, height=32, width=32, classes=10)
        (shard,) = sample.manifest.shards("train")
        whole = os.path.join(directory, shard.name)
        names = [f"many-train.tfrecord-{number:05}-of-{_SHARDS:05}" for number in range(_SHARDS)]
        shards = tuple(dataclasses.replace(shard, name=name) for name in names)
        data = dataclasses.replace(sample, manifest=dataclasses.replace(sample.manifest, splits={"train": shards}))
        host = HostSlice(index=0, count=hosts)
        order = reader.train_order(data.manifest, "train", batch_size=_BATCH, seed=0, epoch=0)
        lanes = Batching(examples=order.examples, global_batch_size=_BATCH, host=host).lanes(order)
        opened = np.searchsorted(order.shard_starts, order.bounds[lanes.start : lanes.stop], side="right") - 1
        for place in {int(place) + more for place in opened for more in (0, 1) if place + more < _SHARDS}:
            os.symlink(whole, os.path.join(directory, names[order.shards[place]]))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        batches = dataset.train_dataset(
            data, "train", height=32, width=32, preprocess="unit", augment=AugmentConfig(flip=True), seed=0, epoch=0,
            global_batch_size=_BATCH, host=host, cache="none",
        )  # fmt: skip
        next(iter(batches))
        seconds = time.monotonic() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"first of {hosts} hosts, {len(lanes)} lanes: first batch after {seconds:.2f} s, {grown / 1024:.0f} MB more"


def _together(order: np.ndarray, batch: int) -> np.ndarray:
    """Says of each record but the last whether its successor in file order is in the same batch of this order."""
    of = np.empty(len(order), np.int64)
    of[order] = np.arange(len(order)) // batch
    return of[1:] == of[:-1]


def _run_length(labels: np.ndarray) -> float:
    return float(len(labels) / (1 + np.count_nonzero(np.diff(labels))))


def _shuffling() -> list[str]:
    rng = np.random.default_rng(0)
    counts = tuple(rng.multinomial(200_000, np.full(64, 1 / 64)).tolist())
    labels = rng.integers(0, 10, 200_000)
    lines = []
    for batch in (32, 256, 1024):
        epochs = []
        for epoch in (0, 1):
            order = EpochOrder(counts=counts, batch_size=batch, window=2_048, seed=0, epoch=epoch)
            positions, valid = order.batches_of_positions()
            epochs.append(positions[valid])
        full = [rng.permutation(200_000) for _ in range(2)]
        ours, ideal = ([_together(one, batch) for one in orders] for orders in (epochs, full))
        lines.append(
            f"batch {batch}, window 2,048, {order.lanes} lanes: neighbours in one batch {ours[0].mean():.4f} (full "
            f"shuffle {ideal[0].mean():.4f}), in two epochs running {(ours[0] & ours[1]).mean():.4f} "
            f"({(ideal[0] & ideal[1]).mean():.6f}); runs of a label {_run_length(labels[epochs[0]]):.4f} "
            f"({_run_length(labels[full[0]]):.4f})"
        )
    return lines


def main(arguments: list[str]) -> None:
    del arguments
    if _RUN.value:
        print(_first_batch(_RUN.value), flush=True)
        return
    for hosts in _HOSTS.value:
        subprocess.run([sys.executable, "-m", "benchmarks.lanes", f"--run={hosts}"], check=True)
    print("\n".join(_shuffling()))


if __name__ == "__main__":
    run_command(main)
