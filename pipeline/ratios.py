"""Says by how much images can be reduced while they are decoded. Free of TensorFlow."""

from __future__ import annotations

import numpy as np

from pipeline.view import STRETCH, View

RATIOS = (1, 2, 4, 8)  # what libjpeg scales by while it decodes


def usable_ratios(*, source_height: int, source_width: int, height: int, width: int, view: View = STRETCH) -> int:
    """Counts how many of `RATIOS` a source of at most this size can need: 1 where it is less than twice the target."""
    sides = np.float32(source_height) / np.float32(height), np.float32(source_width) / np.float32(width)
    # As `framing.factor` computes it, to the bit.
    factor = float(max(sides) if view.pads else min(sides) * np.float32(view.eval_centre or 1.0))
    return max(1, sum(factor >= ratio for ratio in RATIOS))
