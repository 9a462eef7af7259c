"""Computes how fast a slice can be at best, and what a recipe then takes: pure arithmetic. Free of TensorFlow.

Roofline (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785): a step takes no less than its operations
at peak rate, no less than its memory traffic at full bandwidth, and, in a slice, no less than the sum of the gradients
over the chips' links. Real steps are slower; nothing here says by how much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainer.devices.tpus import Slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Holds the least seconds of a step.

    Attributes:
      compute: operations at the chip's peak.
      memory: traffic at the full bandwidth of its memory.
      network: all-reduce of the gradients at the full bandwidth of its links; 0 on one chip.
    """

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.network)

    @property
    def bound_by(self) -> str:
        return max(("compute", self.compute), ("memory", self.memory), ("network", self.network), key=lambda x: x[1])[0]


def step_bounds(*, flops: float, traffic: float, gradient_bytes: float, target: Slice) -> Bounds:
    """Computes the bounds of one step of every chip.

    Args:
      flops: floating-point operations of one chip.
      traffic: bytes between one chip and its memory.
      gradient_bytes: of the gradients of all that trains.
      target: the slice.
    """
    generation = target.generation
    # A ring sends, and receives, 2(n - 1)/n times the gradients; `interconnect` counts both directions.
    sent = 2 * (target.chips - 1) / target.chips * gradient_bytes
    return Bounds(
        compute=flops / generation.peak_flops,
        memory=traffic / generation.memory_bandwidth,
        network=sent / (generation.interconnect / 2),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """Describes a part of a recipe: steps of one kind.

    Attributes:
      name: of the phase, and what is done.
      steps: how many.
      seconds: of one, at least.
      images: in one, over all chips.
      needs_input: whether the input pipeline delivers them (cached features need none).
    """

    name: str
    steps: int
    seconds: float
    images: int
    needs_input: bool

    @property
    def total(self) -> float:
        """Returns its seconds, at least."""
        return self.steps * self.seconds

    def total_fed(self, input_rate: float) -> float:
        """Returns its seconds, at least, with an input pipeline of `input_rate` images/s."""
        if not self.needs_input or not input_rate:
            return self.total
        return max(self.total, self.steps * self.images / input_rate)


def total_seconds(stretches: Sequence[Stretch], *, input_rate: float = 0.0) -> float:
    """Adds up a recipe's seconds, at least; `input_rate` in images/s, 0 for an input that never holds training up."""
    return sum(stretch.total_fed(input_rate) for stretch in stretches)


def cores_needed(images_per_second: float, seconds_per_image: float) -> float:
    """Counts the host cores that deliver a rate, at `seconds_per_image` of processor time."""
    return images_per_second * seconds_per_image
