"""Names the parts of a dataset that models are looked at on: its darkest, most blurred, smallest images. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_PARTS = {"brightness": "darkest tenth", "sharpness": "most blurred tenth", "area": "smallest tenth"}
_TENTH = 0.1


def parts_of(facts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the name of a part → which images are in it, bool [N]: the tenth that has least of a fact.

    Facts that are not known of all images are left out, and those that are nearly the same for all.

    Args:
      facts: name in `pipeline.format.rows.FACTS` → float64 [N].
    """
    found = {}
    for fact, name in _PARTS.items():
        values = facts[fact]
        if not len(values) or not np.isfinite(values).all():
            continue
        inside = values <= np.quantile(values, _TENTH)
        if inside.sum() < len(values) / 2:
            found[name] = inside
    return found
