"""Knows TPU slices by name (`v5e:2x4`, Cloud's `v5litepod-8`): chips, hosts, public figures. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from pipeline.command import UsageError, nearest

GIB = 2**30
_CHIPS_OF_MANY = 4  # of each machine of a slice with several


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Describes a TPU generation, per chip; see `GENERATIONS` for the sources.

    Attributes:
      name: as in `--topology=NAME:2x4`.
      peak_flops: bfloat16 floating-point operations a second.
      memory_bandwidth: bytes a second between the chip and its memory.
      interconnect: bytes a second to the other chips, both directions added up.
      host_copy: bytes a second from the host's memory to the chip.
      memory_limit: bytes that a program may use, as libtpu's compiler states it when one does not fit.
      matrix_unit: rows and columns of a matrix unit: channels are filled up to a multiple of it.
      shapes: the slice shapes that Cloud offers, smallest first.
      host_cores: vCPUs of a virtual machine by its number of chips; slices of more chips consist of 4-chip machines.
      accelerator: prefix of Cloud's accelerator types.
      chip_config: libtpu's name of how a chip's cores are joined to one device, as TPUStrategy sees it.
      cores_in_name: whether Cloud's accelerator types count cores, two a chip, instead of chips.
      source: where the figures stand.
    """

    name: str
    peak_flops: float
    memory_bandwidth: float
    interconnect: float
    host_copy: float
    memory_limit: float
    matrix_unit: int
    shapes: tuple[str, ...]
    host_cores: Mapping[int, int]
    accelerator: str
    chip_config: str = "default"
    cores_in_name: bool = False
    source: str


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")

# Peak, memory and interconnect: the tables "Key chip specifications" of the pages named as source, read in 2026. v4's
# page has no interconnect: its 6 links of 50 GB/s each way are in table 4 of arXiv:2304.01433. Memory limits: what
# libtpu 0.0.52 states. host_copy: PCIe, as https://jax-ml.github.io/scaling-book/tpus says it for v4 and v6e and for
# others in general. host_cores of v4 and v6e are not Google's word: 240 is what a machine with four v4 chips (PCI
# 0x005e) lists, 44 what a ct6e-standard-1t lists; 180 of ct6e-standard-4t and -8t is copied in tables of others.
GENERATIONS: dict[str, Generation] = {
    generation.name: generation
    for generation in (
        Generation(
            name="v4",
            peak_flops=275e12,
            memory_bandwidth=1200e9,
            interconnect=600e9,
            host_copy=16e9,
            memory_limit=30.75 * GIB,
            matrix_unit=128,
            shapes=_CUBES,
            host_cores={4: 240},
            accelerator="v4",
            chip_config="megacore",
            cores_in_name=True,
            source="https://cloud.google.com/tpu/docs/v4",
        ),
        Generation(
            name="v5e",
            peak_flops=197e12,
            memory_bandwidth=819e9,
            interconnect=400e9,
            host_copy=15e9,
            memory_limit=15.75 * GIB,
            matrix_unit=128,
            shapes=_FLAT,
            host_cores={1: 24, 4: 112, 8: 224},
            accelerator="v5litepod",
            source="https://cloud.google.com/tpu/docs/v5e",
        ),
        Generation(
            name="v5p",
            peak_flops=459e12,
            memory_bandwidth=2765e9,
            interconnect=1200e9,
            host_copy=15e9,
            memory_limit=95.73 * GIB,
            matrix_unit=128,
            shapes=(*_CUBES, "16x16x24"),
            host_cores={4: 208},
            accelerator="v5p",
            cores_in_name=True,
            source="https://cloud.google.com/tpu/docs/v5p",
        ),
        Generation(
            name="v6e",
            peak_flops=918e12,
            memory_bandwidth=1638e9,
            interconnect=800e9,
            host_copy=32e9,
            memory_limit=31.24 * GIB,
            matrix_unit=256,
            shapes=_FLAT,
            host_cores={1: 44, 4: 180, 8: 180},
            accelerator="v6e",
            source="https://cloud.google.com/tpu/docs/v6e",
        ),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Describes some chips of one generation, joined.

    Attributes:
      generation: of the chips.
      shape: such as `2x4`.
    """

    generation: Generation
    shape: str

    @property
    def name(self) -> str:
        return f"{self.generation.name}:{self.shape}"

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.shape.split("x")))

    @property
    def hosts(self) -> int:
        """Counts the virtual machines, each of which runs the same command."""
        return 1 if self.chips in self.generation.host_cores else self.chips // _CHIPS_OF_MANY

    @property
    def chips_of_host(self) -> int:
        return self.chips // self.hosts

    @property
    def host_cores(self) -> int:
        """Counts the vCPUs of one host."""
        return self.generation.host_cores[self.chips_of_host]

    @property
    def cores(self) -> int:
        """Counts the vCPUs of all hosts."""
        return self.hosts * self.host_cores


def known_slices() -> list[Slice]:
    """Lists every slice of the table, by generation and size."""
    return [Slice(generation=g, shape=shape) for g in GENERATIONS.values() for shape in g.shapes]


def accelerator_type(slice_: Slice) -> str:
    """Names a slice's accelerator type as Cloud does, e.g. `v5litepod-8`."""
    generation = slice_.generation
    return f"{generation.accelerator}-{slice_.chips * (2 if generation.cores_in_name else 1)}"


def parse_topology(text: str) -> Slice:
    """Reads `v5e:2x4` (generation:shape) or an accelerator type such as `v5litepod-8`, `v5e-8`, `v4-16`, `v6e-1`.

    Raises:
      UsageError: an unknown generation or shape; names the nearest known ones.
    """
    known = {s.name: s for s in known_slices()}
    # Of the shapes with as many chips the first one is Cloud's default.
    types = {accelerator_type(s): s for s in reversed(list(known.values()))}
    types |= {name.replace("v5litepod", "v5e"): s for name, s in types.items()}
    found = known.get(text) or types.get(text)
    if found:
        return found
    generation = re.split(r"[:-]", text)[0]
    aliases = {g.accelerator: g for g in GENERATIONS.values()} | GENERATIONS
    if generation in aliases:
        names = ", ".join(f"{aliases[generation].name}:{shape}" for shape in aliases[generation].shapes)
        raise UsageError(f"--topology={text}: no such slice; there are {names}.{nearest(text, [*known, *types])}")
    raise UsageError(
        f"--topology={text}: no such TPU generation; there are {', '.join(GENERATIONS)}, written as in v5e:2x4 or "
        f"v5litepod-8.{nearest(text, [*known, *types])}"
    )
