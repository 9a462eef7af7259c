"""Computes how fast a slice can be at best, and what a recipe then takes: pure arithmetic. Free of TensorFlow.

Roofline (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785): a step takes no less than its operations
at peak rate, no less than its memory traffic at full bandwidth, and, in a slice, no less than what the chips exchange
takes on their links, which comes on top where the program waits for it. Real steps are slower, by how much `anchors`
says; and no faster than their images are copied to the chips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from trainer.devices.tpus import Slice
from trainer.preflight.anchors import fractions
from trainer.preflight.findings import Report, Step
from trainer.preflight.hlo import Collective

# Of the bytes that each of n chips gives, what it must send: at least (n - 1)/n of this much. A sum goes round twice,
# once to be made and once to be told.
_TIMES_SENT = {
    "all-reduce": 2.0,
    "reduce-scatter": 1.0,
    "all-gather": 1.0,
    "all-to-all": 1.0,
    "collective-permute": 1.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Holds the least seconds of a step.

    Attributes:
      compute: operations at the chip's peak.
      memory: traffic at the full bandwidth of its memory.
      network: exchange with the other chips at the full bandwidth of its links; 0 on one chip.
      waiting: the part of `network` in which a chip does nothing else.
      copy: images from the host's memory to the chip's, at the full bandwidth between them.
    """

    compute: float
    memory: float
    network: float
    waiting: float
    copy: float

    @property
    def on_chip(self) -> float:
        """Returns the seconds without the host."""
        return max(self.compute, self.memory, self.network - self.waiting) + self.waiting

    @property
    def seconds(self) -> float:
        return max(self.on_chip, self.copy)

    @property
    def likely(self) -> tuple[float, float]:
        """Returns the seconds that a real step takes, the least and the most, by what measured ones reached."""
        least, most = fractions()
        return max(self.on_chip / most, self.copy), max(self.on_chip / least, self.copy)

    @property
    def bound_by(self) -> str:
        if self.copy > self.on_chip:
            return "the copy from the host"
        return max(("compute", self.compute), ("memory", self.memory), ("network", self.network), key=lambda x: x[1])[0]


def step_bounds(
    *, flops: float, traffic: float, collectives: Sequence[Collective], input_bytes: float, target: Slice
) -> Bounds:
    """Computes the bounds of one step of every chip.

    Args:
      flops: floating-point operations of one chip.
      traffic: bytes between one chip and its memory.
      collectives: what the chips exchange.
      input_bytes: from the host to one chip.
      target: the slice.
    """
    generation = target.generation

    def seconds(some: Iterable[Collective]) -> float:
        sent = sum(_TIMES_SENT[one.kind] * one.bytes for one in some) * (target.chips - 1) / target.chips
        return sent / (generation.interconnect / 2)  # which counts both directions

    return Bounds(
        compute=flops / generation.peak_flops,
        memory=traffic / generation.memory_bandwidth,
        network=seconds(collectives),
        waiting=seconds(one for one in collectives if one.waits),
        copy=input_bytes / generation.host_copy,
    )


def bounds_of(step: Step, target: Slice) -> Bounds:
    """Computes the bounds of a compiled step."""
    c = step.compiled
    return step_bounds(
        flops=c.flops, traffic=c.traffic, collectives=c.collectives, input_bytes=step.input_bytes, target=target
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """Describes a part of a recipe: steps of one kind.

    Attributes:
      name: of the phase, and what is done.
      steps: how many.
      seconds: of one, at least.
      likely: seconds of a real one, the least and the most.
      images: in one, over all chips.
      needs_input: whether the input pipeline delivers them (cached features need none).
    """

    name: str
    steps: int
    seconds: float
    likely: tuple[float, float]
    images: int
    needs_input: bool

    @property
    def total(self) -> float:
        """Returns its seconds, at least."""
        return self.steps * self.seconds

    def total_fed(self, input_rate: float) -> float:
        """Returns its seconds, at least, with an input pipeline of `input_rate` images/s; 0: it never waits."""
        return max(self.total, self._input_seconds(input_rate))

    def likely_fed(self, input_rate: float) -> tuple[float, float]:
        """Returns its seconds, the least and the most that are likely; `input_rate` as for `total_fed`."""
        fast, slow = (max(self.steps * seconds, self._input_seconds(input_rate)) for seconds in self.likely)
        return fast, slow

    def _input_seconds(self, input_rate: float) -> float:
        return self.steps * self.images / input_rate if self.needs_input and input_rate else 0.0


def stretches(report: Report, target: Slice) -> list[Stretch]:
    """Returns a recipe whose steps are all compiled as steps and their seconds."""
    bounds = [bounds_of(step, target) for step in report.steps]
    return [
        Stretch(
            name=work.name,
            steps=work.count,
            seconds=bounds[work.step].seconds,
            likely=bounds[work.step].likely,
            images=report.steps[work.step].compiled.batch * target.chips,
            needs_input=work.needs_input,
        )
        for work in report.work
    ]


def total_seconds(stretches: Sequence[Stretch], *, input_rate: float = 0.0) -> float:
    """Adds up a recipe's seconds, at least; `input_rate` in images/s, 0 for an input that never holds training up."""
    return sum(stretch.total_fed(input_rate) for stretch in stretches)


def likely_seconds(stretches: Sequence[Stretch], *, input_rate: float = 0.0) -> tuple[float, float]:
    """Adds up the seconds that a real recipe takes, the least and the most; `input_rate` as for `total_seconds`."""
    fast, slow = (sum(stretch.likely_fed(input_rate)[which] for stretch in stretches) for which in (0, 1))
    return fast, slow


def cores_needed(images_per_second: float, seconds_per_image: float) -> float:
    """Counts the host cores that deliver a rate, at `seconds_per_image` of processor time."""
    return images_per_second * seconds_per_image
