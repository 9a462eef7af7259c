"""Reads from TF_CONFIG which processes train one model together, and waits until they are there. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping
from typing import Any

from pipeline.command import TryAgainError, UsageError
from trainer.devices.sockets import split_address, wait_for_all

_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
_JOBS = ("chief", "worker")  # in TensorFlow's order; the first task of all is the chief


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
