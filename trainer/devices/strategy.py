"""Chooses the devices that train: TPU, GPUs, several machines or the CPU, behind one `tf.distribute.Strategy`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from pipeline.command import TryAgainError, UsageError, first_line
from trainer.devices.chips import find_chips
from trainer.devices.choice import ADVICE, choose
from trainer.devices.cluster import Cluster, wait_for_others
from trainer.devices.memory import keep_freed_memory
from trainer.devices.sockets import wait_for_all
from trainer.devices.tpu.hosts import LOCAL, read_addresses
from trainer.devices.tpus import GENERATIONS, GIB
from trainer.devices.workers import GONE, Workers

_CONNECT_SECONDS = 10
_CLUSTER_SECONDS = 600  # machines of a job rarely start at the same moment


def make_strategy(tpu: str = "", *, kind: str = "auto", cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Makes the strategy for the devices found and logs these. TensorFlow must not have used any device before.

    Args:
      tpu: `local` (TPU VM, Colab), the hosts' `grpc://host:port` with commas between, or empty.
      kind: one of `request.STRATEGIES`; `tpu` without a name is `local`.
      cluster: of which this process is part.

    Raises:
      UsageError: no TPU answers, there are no such devices, or the arguments contradict one another.
      TryAgainError: the other workers of the cluster, or hosts of the TPU, do not answer as they should.
    """
    kind = choose(kind, tpu=tpu, cluster=cluster)
    if kind == "tpu":
        return _tpu_strategy(tpu or LOCAL)
    if kind == "multiworker" and cluster:
        return _multi_worker_strategy(cluster)
    return _local_strategy(kind)


def _local_strategy(kind: str) -> tf.distribute.Strategy:
    gpus = [] if kind == "cpu" else tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if kind == "mirrored" and not gpus and len(devices) < 2:
        raise UsageError(
            "--strategy=mirrored: TensorFlow sees no GPU here (python -m trainer.doctor says why); "
            "leave --strategy out to train on the CPU"
        )
    logging.info("found %s", ", ".join(_describe_gpu(gpu) for gpu in gpus) if gpus else _describe_cpu())
    if kind == "auto" and find_chips().usable:
        logging.warning("this machine has TPU chips, which are not used; --tpu=local uses them")
    if not gpus:
        keep_freed_memory()
    if len(devices) > 1 and (gpus or kind == "mirrored"):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def _describe_gpu(gpu: tf.config.LogicalDevice) -> str:
    index = int(gpu.name.rpartition(":")[2])
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[index])
    return f"GPU {index} ({details.get('device_name', 'unknown')})"


def _describe_cpu() -> str:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"CPU with {len(os.sched_getaffinity(0))} cores, {gib:.0f} GiB"


def _multi_worker_strategy(cluster: Cluster) -> tf.distribute.Strategy:
    gpus = tf.config.list_physical_devices("GPU")
    found = f"{len(gpus)} GPUs" if gpus else _describe_cpu()
    logging.info("found %s; this is %s, waiting for the others", found, cluster)
    wait_for_others(cluster, seconds=_CLUSTER_SECONDS)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise TryAgainError(
            f"the workers of TF_CONFIG did not come together ({first_line(error)}); this is {cluster}: is every "
            "address reachable, and its port free? Start the same command on all of them"
        ) from error
    # Every worker has as many batches as the others, all of one size. Otherwise TensorFlow asks all of them before
    # every batch whether there is one, and shapes are no longer static.
    strategy.extended.experimental_enable_get_next_as_optional = False
    if not gpus:
        keep_freed_memory()
    return strategy


def _tpu_strategy(tpu: str) -> tf.distribute.Strategy:
    chips = find_chips()
    addresses = () if tpu == LOCAL else read_addresses(tpu)
    _check_reachable(addresses)
    try:
        # Raises ValueError, RuntimeError or an error of TensorFlow, whichever part notices first.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        if addresses:
            tf.config.experimental_connect_to_cluster(resolver)
        topology = tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        logging.debug("the TPU's initialisation failed", exc_info=True)
        text = f"--tpu={tpu}: no TPU answered ({first_line(error)[:200]}; --verbosity=1 shows all)"
        if isinstance(error, GONE) and len(addresses) > 1:
            raise TryAgainError(f"{text}; start the same command again on all hosts") from error
        raise UsageError(f"{text}; {ADVICE}") from error
    hosts = len(topology.device_coordinates)
    logging.info("found %s", describe_tpu(chips.generation, tuple(topology.mesh_shape), hosts=hosts))
    return strategy


def _check_reachable(addresses: Sequence[str]) -> None:
    """Raises UsageError where nobody listens: TensorFlow itself would wait there for minutes."""
    if missing := wait_for_all(addresses, seconds=_CONNECT_SECONDS):
        raise UsageError(
            f"--tpu: no TensorFlow server listens at {', '.join(missing)}; every host of the TPU has to run one: give "
            "the TPU's name instead, on every host"
        )


def describe_tpu(generation: str | None, mesh: tuple[int, ...], *, hosts: int) -> str:
    """Describes a TPU, e.g. `TPU v5e, 8 chips of 15.75 GiB (2x4x1) on 2 hosts`.

    Args:
      generation: as `find_chips` names it, if known.
      mesh: chips along x, y and z, then cores of a chip.
      hosts: machines that hold the chips.
    """
    *sides, _ = mesh
    chips = math.prod(sides)
    memory = f" of {GENERATIONS[generation].memory_limit / GIB:g} GiB" if generation in GENERATIONS else ""
    plural = "s" if hosts > 1 else ""
    shape = "x".join(map(str, sides))
    return f"TPU{' ' + generation if generation else ''}, {chips} chips{memory} ({shape}) on {hosts} host{plural}"


def describe(strategy: tf.distribute.Strategy) -> str:
    """Tells in one line how the work is split, e.g. `8 replicas on TPU`, `2 replicas on CPU, 2 workers`."""
    replicas = strategy.num_replicas_in_sync
    kind = "TPU" if is_tpu(strategy) else strategy.extended.worker_devices[0].split(":")[-2]
    workers = Workers(strategy).count
    return f"{replicas} replica{'s' if replicas > 1 else ''} on {kind}{f', {workers} workers' if workers > 1 else ''}"


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


def reads_elsewhere(strategy: tf.distribute.Strategy) -> bool:
    """Says whether other processes than this one read the data: the servers through which a TPU is reached."""
    return is_tpu(strategy) and any("/job:localhost/" not in name for name in strategy.extended.worker_devices)
