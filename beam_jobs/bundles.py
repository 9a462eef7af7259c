"""Wraps what a step outputs when a bundle ends, which Beam wants in its window."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows


def late(element: Any) -> Any:
    """Puts an output of `finish_bundle`, tagged or not, into the one window that the graph has."""
    if isinstance(element, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(element.tag, GlobalWindows.windowed_value(element.value))
    return GlobalWindows.windowed_value(element)
