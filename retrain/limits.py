"""Says when data are held and when a model is promoted: the limits that a configuration may set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

TEST_ONLY, POOLED = "test", "test+validation"  # what `evidence` takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataGateConfig:
    """Says when a dataset is held.

    Attributes:
      removed_labels: labels that may be gone.
      accept: content ids (of gate-data.json) that a person has looked at: they are trained on whatever is found.
      lost: share of the champion's images that may be gone.
      lost_of_label: the same, of a label.
      relabelled: share of a label's images that may have another label now.
      few_test: test images of a label, below which it is said.
      level: of the tests, each of which warns so often in vain.
      label_shift: total variation, new images against the others, from which on it is said.
      fact_shift: Kolmogorov–Smirnov distance from which on it is said.
      separable: area under the curve of a classifier that tells new images of a label from the others.
      label_noise: share of the new images whose label may be wrong.
    """

    removed_labels: Sequence[str] = ()
    accept: Sequence[str] = ()
    lost: float = 0.2
    lost_of_label: float = 0.5
    relabelled: float = 0.02
    few_test: int = 5
    level: float = 0.01
    label_shift: float = 0.1
    fact_shift: float = 0.15
    separable: float = 0.75
    label_noise: float = 0.1

    def __post_init__(self) -> None:
        for name in ("removed_labels", "accept"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{name} must be a list, got {value!r}")
            # YAML reads 7 as a number, and it may be a label's name.
            object.__setattr__(self, name, tuple(map(str, value)))
        if isinstance(self.few_test, bool) or not isinstance(self.few_test, int) or self.few_test < 0:
            raise ValueError(f"few_test must be a whole number, 0 or more, got {self.few_test!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and not (
                isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
            ):
                raise ValueError(f"{field.name} must be a number from 0 to 1, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Says when a challenger is promoted.

    Attributes:
      margin: the largest loss of test accuracy that is still "not worse", for instance 0.01 for one percentage point.
      minimum_accuracy: test accuracy below which no model is promoted, with or without a champion.
      alpha: how often, at most, a challenger that is worse by exactly `margin` is promoted; and how often one is
        refused for a label that was lost by chance.
      label_margin: the largest loss of a label's recall that is not looked at.
      label_images: test images that a label must have to be looked at by itself.
      anchor: number of a model that every challenger is compared with, too: small losses may not add up.
      evidence: `test`: the test images; `test+validation`: the validation images, too, where both are few; they
        choose no weights then (the recipe's `selection` is `last`).
      latency: how many times as long as the champion an exported challenger may take for an image.
      size: how many times as large it may be.
    """

    margin: float
    minimum_accuracy: float
    alpha: float = 0.05
    label_margin: float = 0.15
    label_images: int = 20
    anchor: int | None = None
    evidence: str = TEST_ONLY
    latency: float = 1.5
    size: float = 1.5

    @property
    def pools(self) -> bool:
        """Says whether validation images are evidence."""
        return self.evidence == POOLED

    def __post_init__(self) -> None:
        if self.evidence not in (TEST_ONLY, POOLED):
            raise ValueError(f"evidence must be {TEST_ONLY} or {POOLED}, got {self.evidence!r}")
        for name in ("label_images", "anchor"):
            value = getattr(self, name)
            if name == "anchor" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        limits_of = {
            "margin": (0.0, 0.5),
            "minimum_accuracy": (-1e-9, 1.0),
            "alpha": (0.0, 0.5),
            "label_margin": (-1e-9, 1.0),
            "latency": (0.0, 1_000.0),
            "size": (0.0, 1_000.0),
        }
        for name, (low, high) in limits_of.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value <= high:
                limits = f"above {low:g}" if low >= 0 else "0 or more"
                raise ValueError(f"{name} must be a number {limits} and at most {high:g}, got {value!r}")
