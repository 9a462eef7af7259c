"""Puts an evaluation into figures and lines of text: what a model's answers to a split say of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.format.manifest import DatasetVersion
from pipeline.format.rows import known_images
from pipeline.predictions import Predictions
from pipeline.slices import parts_of
from trainer.report.measures import Measures, Slice, measure, slices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Holds the figures of all images and of parts of them."""

    temperature: float
    measures: Measures
    slices: Sequence[Slice]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        parts = [dataclasses.asdict(one) for one in self.slices]
        return {"temperature": self.temperature, **self.measures.to_dict(), "slices": parts}


def figures(
    found: Predictions, *, split: str, validation: Predictions | None, data: DatasetVersion | None
) -> Evaluation:
    """Evaluates answers.

    Args:
      found: the answers.
      split: name of the split that was asked about.
      validation: answers on which a threshold is chosen; None: on these themselves.
      data: the dataset, whose build has noted facts of its images; None where it is gone.
    """
    parts: list[Slice] = []
    if data is not None:
        known = known_images(data, split=split)
        place = {image: index for index, image in enumerate(known.ids)}
        if all(image in place for image in found.ids):
            at = [place[image] for image in found.ids]
            parts = slices(found, parts_of({name: values[at] for name, values in known.facts.items()}))
    return Evaluation(temperature=found.temperature, measures=measure(found, validation=validation), slices=parts)


def lines(evaluated: Evaluation, *, split: str) -> Iterator[str]:
    """Tells an evaluation to a person at a terminal."""
    of = evaluated.measures
    yield f"{split}: {of.examples:,} images of {sum(one.examples > 0 for one in of.labels)} labels"
    yield f"  accuracy            {of.accuracy:.4f}  ({_range(of.interval)})"
    for k, share in of.top.items():
        yield f"  top-{k}               {share:.4f}"
    yield f"  balanced accuracy   {of.balanced_accuracy:.4f}"
    yield f"  macro-F1            {of.macro_f1:.4f}"
    precisions = [one.average_precision for one in of.labels if one.average_precision is not None]
    yield f"  average precision   {np.mean(precisions):.4f}  (mean of the labels)"
    before = f"  ({of.uncalibrated_log_loss:.4f} at temperature 1, now {evaluated.temperature:.3f})"
    yield f"  log-loss            {of.log_loss:.4f}{before}"
    yield f"  Brier score         {of.brier:.4f}"
    yield f"  calibration error   {of.calibration_error:.4f}  ({of.uncalibrated_error:.4f} at temperature 1)"
    yield f"  {_coverage(of)}"
    width = max(len(one.label) for one in of.labels)
    yield f"  {'label':<{width}}  images  recall                   precision                 F1      average precision"
    for one in of.labels:
        yield (
            f"  {one.label:<{width}}  {one.examples:>6}  {_with_range(one.recall, one.recall_interval)}  "
            f"{_with_range(one.precision, one.precision_interval)}  {_share(one.f1)}  {_share(one.average_precision)}"
        )
    for part in evaluated.slices:
        clear = " (more than chance)" if part.difference[1] < 0 or part.difference[0] > 0 else ""
        yield (
            f"  {part.name}: {part.accuracy:.4f} of {part.examples} images ({_range(part.interval)}), the others "
            f"{part.rest:.4f}{clear}"
        )


def _coverage(of: Measures) -> str:
    found = of.coverage
    if found.threshold is None:
        return f"no threshold of confidence makes {found.wanted:.0%} of the answers right"
    accuracy = f", {found.accuracy:.4f} of them right" if found.accuracy is not None else ""
    return f"to be right {found.wanted:.0%} of the time: answer where it is {found.threshold:.3f} sure or more, " + (
        f"{found.coverage:.1%} of the images{accuracy}"
    )


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _share(value: float | None) -> str:
    return "–     " if value is None else f"{value:.4f}"


def _with_range(value: float | None, interval: tuple[float, float] | None) -> str:
    return (
        f"{'–':<23}" if value is None or interval is None else f"{value:.4f} ({interval[0]:.3f} to {interval[1]:.3f})"
    )
