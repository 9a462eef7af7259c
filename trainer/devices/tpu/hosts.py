"""Finds out which host of a TPU slice this is, and what it has to do. Free of TensorFlow.

TensorFlow drives a slice from one process, which reaches every host's chips through a TensorFlow server there. So all
hosts run the same command: the first one trains, and all serve their chips to it (server.py).
"""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Mapping

from pipeline.command import UsageError
from trainer.devices.chips import find_chips
from trainer.devices.sockets import split_address

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
LOCAL, _GRPC = "local", "grpc://"
_PORT = 8470  # where TensorFlow's TPUClusterResolver looks for the servers of a TPU's hosts
_SECONDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceHost:
    """Numbers a host of a slice.

    Attributes:
      number: from 0.
      addresses: host:port of the TensorFlow server of every host; none where this machine does not know of others.
    """

    number: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.addresses))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuPlace:
    """Says what this process does with a TPU.

    Attributes:
      addresses: of the servers through which the chips are reached; none: they are this machine's own.
      serves: number of the server among them that this machine has to run; None where others run them all.
      trains: whether this process trains.
    """

    addresses: tuple[str, ...] = ()
    serves: int | None = None
    trains: bool = True

    @property
    def target(self) -> str:
        """Returns what `strategy.make_strategy` takes."""
        return ",".join(f"{_GRPC}{address}" for address in self.addresses) or LOCAL


def find_host(environment: Mapping[str, str], *, metadata: str = METADATA) -> SliceHost:
    """Finds this host's place as Kubernetes (TPU_WORKER_ID) or Compute Engine's metadata server (`metadata`) tells it.

    Where neither tells, it is taken for the only one. Both names are those that JAX reads (cloud_tpu_cluster.py).

    Raises:
      UsageError: they contradict one another.
    """
    number = environment.get("TPU_WORKER_ID") or _read(metadata + "agent-worker-number")
    # Kubernetes: names of hosts; Compute Engine: id:id:address of each.
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or _read(metadata + "worker-network-endpoints")
    names = [host.strip().rpartition(":")[2] for host in hosts.split(",") if host.strip()]
    if len(names) < 2:
        return SliceHost()
    if not number.isdigit() or int(number) >= len(names):
        raise UsageError(f'this host is "{number}" of the {len(names)} hosts {", ".join(names)}: set TPU_WORKER_ID')
    return SliceHost(number=int(number), addresses=tuple(f"{name}:{_PORT}" for name in names))


def _read(address: str) -> str:
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.read().decode().strip()
    except OSError:
        return ""


def read_addresses(tpu: str) -> tuple[str, ...]:
    """Reads `grpc://host:port`, several of them with commas between. Raises UsageError."""
    addresses = tuple(part.strip().removeprefix(_GRPC) for part in tpu.split(","))
    for address in addresses:
        try:
            split_address(address)
        except ValueError as error:
            raise UsageError(f"--tpu={tpu}: {error}; write grpc://host:port, with commas between hosts") from error
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"--tpu={tpu}: an address comes twice")
    return addresses


def find_place(tpu: str, environment: Mapping[str, str], *, metadata: str = METADATA) -> TpuPlace:
    """Says what this process does with `--tpu=tpu`.

    Raises:
      UsageError: an address is none, or this machine has no chips and none are named by their address; or `local`,
        which reaches one host's chips only, in a slice of several.
    """
    if tpu.startswith(_GRPC):
        return TpuPlace(addresses=read_addresses(tpu))
    if not find_chips().on_bus:
        if tpu == LOCAL:
            return TpuPlace()  # whoever makes the strategy says what is missing
        raise UsageError(
            f"--tpu={tpu}: this machine is no host of a TPU; run the command on the TPU's own hosts, or give the "
            "addresses of their TensorFlow servers: grpc://host:port,grpc://host:port"
        )
    host = find_host(environment, metadata=metadata)
    if host.count == 1:
        return TpuPlace()
    if tpu == LOCAL:
        raise UsageError(
            f"--tpu=local: this is host {host.number} of a slice of {host.count}, whose chips work together only; give "
            "the TPU's name, on every host"
        )
    return TpuPlace(addresses=host.addresses, serves=host.number, trains=host.number == 0)


def refuse_own_disks(places: Mapping[str, str]) -> None:
    """Refuses, for a TPU that is reached through servers, what lies on a disk: they read and write it themselves.

    Args:
      places: flag → its value.

    Raises:
      UsageError: one is not on gs://, the store that TensorFlow reads and writes by itself.
    """
    for flag, place in places.items():
        if not place.startswith("gs://"):
            raise UsageError(
                f"--{flag}={place}: every host of the TPU reads and writes there; give a place on gs://, which all "
                "of them see"
            )
