"""Which devices train: TPU, GPUs or CPU, behind one `tf.distribute.Strategy`."""

from __future__ import annotations

import socket

import tensorflow as tf

from pipeline.cli import UsageError
from trainer.doctor_checks import find_chips
from trainer.memory import keep_freed_memory

_CONNECT_SECONDS = 10


def make_strategy(tpu: str) -> tf.distribute.Strategy:
    """Returns the strategy for `--tpu`, or for what is on this machine if it is empty.

    Args:
      tpu: `local` (TPU VM, Colab), a Cloud TPU's name, `grpc://host:port`, or empty: all GPUs, else the CPU.

    Raises:
      UsageError: no TPU answers.
    """
    if tpu:
        return _tpu_strategy(tpu)
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    if gpus:
        return tf.distribute.OneDeviceStrategy("GPU:0")
    keep_freed_memory()
    return tf.distribute.OneDeviceStrategy("CPU:0")


def _tpu_strategy(tpu: str) -> tf.distribute.Strategy:
    advice = "run `python -m trainer.doctor`, or leave --tpu out to train on this machine's CPU or GPU"
    if tpu == "local" and not find_chips().usable:
        raise UsageError(f"--tpu=local: no TPU on this machine (neither /dev/accel* nor /dev/vfio/*); {advice}")
    if tpu.startswith("grpc://"):
        _check_reachable(tpu)
    try:
        # Raises ValueError, RuntimeError or an error of the HTTP client, whichever library notices first.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"--tpu={tpu}: no TPU answered ({reason[:200]}); {advice}") from error


def _check_reachable(address: str) -> None:
    """TensorFlow itself would wait for minutes on an address where nobody listens."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"--tpu={address}: no TPU answered ({error}); write it as grpc://host:port") from error


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line on what was found, e.g. `8 replicas on TPU (2 hosts)`."""
    replicas = strategy.num_replicas_in_sync
    kind = "TPU" if is_tpu(strategy) else strategy.extended.worker_devices[0].split(":")[-2]
    return f"{replicas} replica{'s' if replicas > 1 else ''} on {kind}"


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)
