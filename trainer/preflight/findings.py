"""Holds what was found out about a recipe on a slice, as data that can be kept. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.preflight.compiling import Compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Describes one kind of step and what the compiler says about it.

    Attributes:
      name: e.g. `phase all`.
      compiled: on one chip.
      product_flops: of one chip's batch by our own count.
      input_bytes: that the host hands to one chip.
    """

    name: str
    compiled: Compiled
    product_flops: int
    input_bytes: int

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Step:
        """Inverts `dataclasses.asdict` after a passage through JSON."""
        return cls(**{**value, "compiled": Compiled.from_dict(value["compiled"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Says how often a step is done in a recipe.

    Attributes:
      name: shown.
      step: index into the report's steps.
      count: how often.
      needs_input: whether the input pipeline delivers its images.
    """

    name: str
    step: int
    count: int
    needs_input: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """Describes the largest batch that fits.

    Attributes:
      name: of the step that takes the most memory.
      largest: that step with the largest batch a chip that was seen to fit, or None.
      too_large: the smallest batch a chip that was seen not to fit, or None.
      images: a chip's share of the training set, more than which was not tried.
    """

    name: str
    largest: Step | None
    too_large: int | None
    images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Holds everything that is printed.

    Attributes:
      title: recipe, backbone, precision and sizes.
      data: where the counts come from.
      notes: what the user must know first.
      steps: the kinds of steps.
      work: the whole recipe.
      searched: the largest batch, or None if it was not looked for, or not yet.
      channel_fill: how full the matrix unit's rows and columns are, by the layers' channels, 0 to 1.
      feed: {"core_seconds", "cores", "machine", "sample"}, or None as long as steps are missing.
      versions: of the compiler.
      programs: the digest of each that was compiled.
    """

    title: str
    data: str
    notes: tuple[str, ...]
    steps: tuple[Step, ...]
    work: tuple[Work, ...]
    searched: Searched | None
    channel_fill: float
    feed: Mapping[str, Any] | None
    versions: Mapping[str, str]
    programs: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return all(step.compiled.fits for step in self.steps)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Report:
        """Inverts `dataclasses.asdict` after a passage through JSON."""
        searched = value["searched"]
        if searched:
            largest = searched["largest"]
            searched = Searched(**{**searched, "largest": Step.from_dict(largest) if largest else None})
        changed = {
            "notes": tuple(value["notes"]),
            "programs": tuple(value["programs"]),
            "steps": tuple(map(Step.from_dict, value["steps"])),
            "work": tuple(Work(**work) for work in value["work"]),
            "searched": searched,
        }
        return cls(**{**value, **changed})
