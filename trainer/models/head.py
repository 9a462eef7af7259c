"""Says what a classifier's head consists of. Free of TensorFlow."""

from __future__ import annotations

import dataclasses

from pipeline.command import nearest

POOLINGS = ("avg", "flatten")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Describes what comes after the feature map: pooling → [dense `hidden`, ReLU] → dropout → dense logits.

    Attributes:
      pooling: "avg" (the mean over the positions) or "flatten" (all positions).
      hidden: units of the hidden layer; 0 for none.
      dropout: fraction of the units before the logits that are dropped in training.
    """

    pooling: str = "avg"
    hidden: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(
                f'pooling must be one of {", ".join(POOLINGS)}, got "{self.pooling}".{nearest(self.pooling, POOLINGS)}'
            )
        if self.hidden < 0:
            raise ValueError(f"hidden is a number of units, 0 for no hidden layer; got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a fraction in [0, 1), got {self.dropout}")
