"""Finds out which host of a TPU slice this is. Free of TensorFlow.

TensorFlow drives a slice from one process: it runs on one host and reaches the others' chips through the TensorFlow
server that Cloud's images start on each of them (so does Google's own test infrastructure,
github.com/GoogleCloudPlatform/ml-auto-solutions, dags/legacy_test/tests/tensorflow). Where every host runs the same
command, all but the first leave.
"""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Mapping

from pipeline.command import UsageError

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_SECONDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceHost:
    """Numbers a host of a slice.

    Attributes:
      number: from 0.
      count: of hosts.
    """

    number: int = 0
    count: int = 1


def find_host(environment: Mapping[str, str], *, metadata: str = METADATA) -> SliceHost:
    """Finds this host's place as Kubernetes (TPU_WORKER_ID) or Compute Engine's metadata server (`metadata`) tells it.

    Where neither tells, it is taken for the only one. Both names are those that JAX reads (cloud_tpu_cluster.py).
    """
    number = environment.get("TPU_WORKER_ID") or _read(metadata + "agent-worker-number")
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or _read(metadata + "worker-network-endpoints")
    count = len(hosts.split(",")) if hosts else 1
    return SliceHost(number=int(number) if number.isdigit() else 0, count=count)


def _read(address: str) -> str:
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.read().decode().strip()
    except OSError:
        return ""


def leaves_it_to_another(tpu: str, host: SliceHost) -> bool:
    """Says whether, with `--tpu=tpu`, another host of the slice trains with this one's chips.

    Raises:
      UsageError: `local`, which reaches one host's chips only, in a slice of several.
    """
    if host.count == 1:
        return False
    if tpu == "local":
        raise UsageError(
            f"--tpu=local: this is host {host.number} of a slice of {host.count}, whose chips work together only; give "
            "the TPU's name, on every host or on the first"
        )
    return host.number > 0
