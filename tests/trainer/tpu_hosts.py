"""Drives a TPU of two hosts that are processes on this machine, whose cores are logical CPUs.

    python -m tests.trainer.tpu_hosts server NUMBER ADDRESS ADDRESS      # the first one until its input ends
    python -m tests.trainer.tpu_hosts train DATA RUN ADDRESS ADDRESS

The servers, the connection to them, TPUStrategy, the distributed input, variables, checkpoints and tracing are
TensorFlow's and the project's own. Only what asks TPU hardware is replaced: the initialisation, and the names of cores.
`train` prints lines of JSON, the last one before it waits in the middle of an epoch for something to happen.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.tpu import tpu_system_metadata

from pipeline.command import CommandError, fail

CORES = 2  # of a host
BATCH = 32


def serve(number: int, addresses: list[str]) -> None:
    """Serves as `trainer.main` does on a host that is not the first, and `server_child` does on that one."""
    from trainer.devices.tpu import server, server_child

    tf.distribute.Server = functools.partial(
        tf.distribute.Server, config=config_pb2.ConfigProto(device_count={"CPU": CORES})
    )
    if number:
        server.serve(number, addresses)
        tell(gone=addresses[0])
    else:
        server_child.main()


class FakeStrategy(tf.distribute.TPUStrategy):
    """Is a TPUStrategy whose cores are the logical CPUs of the hosts."""

    def __init__(self, resolver: tf.distribute.cluster_resolver.TPUClusterResolver) -> None:
        hosts = len(resolver.cluster_spec().as_dict()["worker"])
        device = collections.namedtuple("device", "name device_type")
        root = "/job:worker/replica:0/task:"
        names = [f"{root}{host}/device:TPU:{core}" for host in range(hosts) for core in range(CORES)]

        class Resolver:
            tpu_hardware_feature = None

            def get_tpu_system_metadata(self):
                return tpu_system_metadata.TPUSystemMetadata(
                    num_cores=len(names),
                    num_hosts=hosts,
                    num_of_cores_per_host=CORES,
                    topology=None,
                    devices=tuple(device(name, "TPU") for name in names),
                )

        super().__init__(Resolver())
        cpus = [name.replace("TPU", "CPU") for name in names]
        of_host = [f"{root}{host}/device:CPU:0" for host in range(hosts)]
        self.extended._tpu_devices = np.array([[cpu] for cpu in cpus], dtype=object)
        self.extended._device_input_worker_devices = collections.OrderedDict(
            (name, cpus[CORES * host : CORES * (host + 1)]) for host, name in enumerate(of_host)
        )
        self.extended._host_input_worker_devices = collections.OrderedDict((name, [name] * CORES) for name in of_host)


class Topology:
    """Answers what the log line about the TPU asks."""

    device_coordinates = ((0,), (0,))
    mesh_shape = (2, CORES, 1, 1)


def tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


def train(data: str, run: str, addresses: list[str]) -> None:
    """Does what a run does, but for steps on cores; then reads on until something ends it."""
    tf.tpu.experimental.initialize_tpu_system = lambda resolver: Topology()
    tf.distribute.TPUStrategy = FakeStrategy
    from pipeline import dataset
    from pipeline.augment.config import AugmentConfig
    from pipeline.format.manifest import open_dataset
    from trainer.devices.strategy import describe, make_strategy, reads_elsewhere
    from trainer.devices.tpu.server import watched
    from trainer.devices.workers import Workers
    from trainer.train.feed import distribute

    version = open_dataset(data)
    strategy = make_strategy(",".join(f"grpc://{address}" for address in addresses))
    workers = Workers(strategy)
    tell(describe=describe(strategy), machines=workers.machines, elsewhere=reads_elsewhere(strategy))

    augment = AugmentConfig(flip=True, shift=0.1)

    def batches(host, epoch=0, cache="none"):
        return dataset.train_dataset(
            version, "train", height=32, width=32, preprocess="unit", augment=augment, seed=0, epoch=epoch,
            global_batch_size=BATCH, host=host, cache=cache,
        )  # fmt: skip

    with watched(addresses), workers.or_try_again():
        classifier, step = _build(version, strategy)
        labels, sums = [], []
        # Never past the last one: TensorFlow passes the end of a remote dataset on as an error at any later moment.
        steps = -(-version.manifest.num_examples("train") // BATCH)
        for batch in itertools.islice(distribute(strategy, batches), steps):
            parts = {name: strategy.experimental_local_results(batch[name]) for name in ("image", "label", "weight")}
            labels.append([label.numpy().tolist() for label in parts["label"]])
            sums.append([float(tf.reduce_sum(image)) for image in parts["image"]])
            on = [image.device for image in parts["image"]]
        tell(labels=labels, sums=sums, images_on=on)
        _render_on_the_cores(version, strategy, functools.partial(batches, cache="device"), augment, steps)
        traced = step._run.get_concrete_function(iter(distribute(strategy, batches)), tf.constant(0), tf.constant(2))
        tell(traced=len(traced.graph.get_operations()))
        _save_and_restore(run, classifier, step)
        tell(waiting=True)
        for epoch in range(100_000):
            of_epoch = distribute(strategy, functools.partial(batches, epoch=epoch))
            for batch in itertools.islice(of_epoch, steps):
                float(tf.reduce_sum(strategy.experimental_local_results(batch["image"])[-1]))


def _render_on_the_cores(version, strategy, batches, augment, steps):
    """Tells the sums of images that lie on the cores of both hosts, and are rendered there."""
    from pipeline.augment.render import finish
    from pipeline.resident import Resident
    from trainer.train.feed import distribute

    with strategy.scope():
        resident = Resident.load(version, height=32, width=32)
    sums = []
    for batch in itertools.islice(distribute(strategy, batches), steps):
        columns = {name: strategy.experimental_local_results(column) for name, column in batch.items()}
        sums.append([])
        for core, pixels in enumerate(resident.pixels.values):
            part = {name: of_cores[core] for name, of_cores in columns.items()}
            with tf.device(pixels.device):
                images = finish(part, augment, "unit", dataclasses.replace(resident, pixels=pixels))
            sums[-1].append(float(tf.reduce_sum(images)))
    tell(resident_sums=sums, resident_on=[variable.device for variable in resident.pixels.values])


def _build(version, strategy):
    from trainer.recipes import overrides
    from trainer.recipes.load import facts_of, load_recipe
    from trainer.train.model import build_from_recipe
    from trainer.train.step import TrainStep

    classes = version.manifest.num_classes
    recipe = overrides.override(load_recipe("cifar10_cnn", facts_of(version)), [f"batch_size={BATCH}"])
    (phase,) = recipe.phases
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=classes, seed=0)
        step = TrainStep(
            classifier=classifier,
            recipe=recipe,
            phase=phase,
            strategy=strategy,
            seed=0,
            rates=phase.learning_rates(steps_per_epoch=10),
            class_weights=np.ones(classes, np.float32),
        )
    return classifier, step


def _save_and_restore(run, classifier, step):
    from trainer.train.checkpoint import Checkpoints, Snapshot, load_best, model_weights, training_state

    weight = classifier.head.trainable_variables[0].value
    checkpoints = Checkpoints(f"{run}/checkpoints")
    state = Snapshot(training_state(classifier, step.optimizers, step.average))
    before = weight.numpy()
    checkpoints.save({"phase": 0, "step": 3}, state, number=3)
    checkpoints.save_best(Snapshot(model_weights(classifier)))
    checkpoints.wait()
    weight.assign(before + 1)
    ((path, progress),) = checkpoints.candidates()
    restored = checkpoints.restore(path, state) and all((v.numpy() == before).all() for v in weight.values)
    weight.assign(before + 1)
    load_best(f"{run}/checkpoints", classifier)
    best = all((v.numpy() == before).all() for v in weight.values)
    tell(variable_on=[v.device for v in weight.values], progress=progress, restored=bool(restored), best=bool(best))


def main() -> None:
    what, *rest = sys.argv[1:]
    sys.argv = [sys.argv[0], *rest]
    if what == "server":
        serve(int(rest[0]), rest[1:])
    else:
        train(rest[0], rest[1], rest[2:])


if __name__ == "__main__":
    try:
        main()
    except CommandError as failure:
        fail(failure, failure.exit_code)
