"""Joins several processes to train one model: who they are, what they agree on, and what if one of them dies.

Every worker computes the same: batches are shared out, gradients and evaluation results are exchanged. Only the chief
writes. `--workdir` must be one folder that all of them read, because they resume from the chief's checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from pipeline.command import TryAgainError, UsageError
from trainer.devices.sockets import split_address, wait_for_all

_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
_JOBS = ("chief", "worker")  # in TensorFlow's order; the first task of all is the chief
# What TensorFlow raises when another process, which it works with, is gone.
GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Lists the workers of a job, this process among them.

    Attributes:
      addresses: host:port of every worker, the chief first.
      index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    def __str__(self) -> str:
        return f"worker {self.index} of {len(self.addresses)} ({', '.join(self.addresses)})"


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster that TF_CONFIG describes, None where it names no other worker than this one.

    Raises:
      UsageError: TF_CONFIG is damaged, contradicts itself, or has parameter servers or evaluators.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
        jobs: dict[str, Any] = config.get("cluster", {})
        task = config.get("task", {})
        if other := sorted(set(jobs) - set(_JOBS)):
            raise ValueError(f'job "{other[0]}" has no part in this; give chief and worker only')
        named = [(job, i) for job in _JOBS for i in range(len(jobs.get(job, [])))]
        addresses = tuple(address for job in _JOBS for address in jobs.get(job, []))
        if len(addresses) < 2:
            return None
        for address in addresses:
            split_address(str(address))
        if len(set(addresses)) < len(addresses):
            raise ValueError(f"an address comes twice in {', '.join(addresses)}")
        own = (task.get("type"), task.get("index"))
        if own not in named:
            raise ValueError(f"task {json.dumps(task)} is none of the cluster's: {', '.join(map(_name, named))}")
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"TF_CONFIG={text[:300]}: {error}; write it like {_EXAMPLE}, or unset it to train on this machine alone"
        ) from error
    return Cluster(addresses=addresses, index=named.index(own))


def _name(task: tuple[str, int]) -> str:
    return f"{task[0]} {task[1]}"


def wait_for_others(cluster: Cluster, *, seconds: float) -> None:
    """Waits until all other workers have listened at their addresses, as this one meanwhile does at its own.

    TensorFlow itself would wait without end, and while it does a SIGTERM is lost.

    Raises:
      TryAgainError: this worker's port is taken, or somebody has not come within `seconds`.
    """
    _, port = split_address(cluster.addresses[cluster.index])
    dual = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=len(cluster.addresses),
        )
    except OSError as error:
        raise TryAgainError(
            f"this is {cluster}, but port {port} is taken ({error}); is an earlier attempt still running?"
        ) from error
    with listener:
        others = [address for i, address in enumerate(cluster.addresses) if i != cluster.index]
        if missing := wait_for_all(others, seconds=seconds):
            raise TryAgainError(
                f"nobody listens at {', '.join(missing)} after {seconds:.0f} s; start the command on all workers"
            )


class Workers:
    """Stands for the processes that run this program together under one strategy, often just this one.

    Attributes:
      count: how many. A TPU slice has one, however many hosts it has.
      machines: how many machines their devices are on.
      is_chief: whether this process is the one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.count = 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self.count = sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))
        # A device's name begins with the machine that it is on: /job:worker/replica:0/task:1/…
        machines = {device.partition("/device:")[0] for device in strategy.extended.worker_devices}
        self.machines = max(self.count, len(machines))
        self.is_chief: bool = strategy.extended.should_checkpoint
        self._gather = tf.function(lambda values: strategy.gather(values, axis=0))

    def gather(self, value: int) -> list[int]:
        """Returns every replica's worker's `value`, the same list to all. All must call it: it waits for the last."""
        if self.count == 1:
            return [value]
        own = self._strategy.experimental_distribute_values_from_function(lambda _: tf.constant([value], tf.int64))
        return self._gather(own).numpy().tolist()

    def wait(self) -> None:
        """Waits until all workers have come here."""
        self.gather(0)

    def require_same(self, value: Any, *, what: str) -> None:
        """Waits for all workers; raises UsageError on all of them if `value` (plain JSON) differs between them."""
        if len(set(self.gather(zlib.crc32(json.dumps(value, sort_keys=True).encode())))) > 1:
            raise UsageError(
                f"{what} must be the same for all workers of TF_CONFIG; compare their logs (here: {str(value)[:500]})"
            )

    @contextlib.contextmanager
    def or_try_again(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another worker is gone into a TryAgainError."""
        try:
            yield
        except GONE as error:
            if self.machines == 1:
                raise
            raise TryAgainError(
                f"another machine is gone, its own log says why ({type(error).__name__}); start the same command again "
                "on all of them to go on from the newest checkpoint"
            ) from error
