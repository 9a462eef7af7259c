"""Finds images whose label is probably wrong, by confident learning (Northcutt et al. 2021, arXiv 1911.00068).

An image counts for another label than its own where a model that has not seen it is as sure of that label as it is, on
average, of images that bear it. Equal to cleanlab's `find_label_issues(filter_by="confident_learning")`. NumPy only.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable

import numpy as np

# Accuracy from which on a model's doubts are about labels more than its own: where 5 % were changed, of the labels
# doubted by models that were right 82 to 90 % of the time 60 to 80 % were changed, 30 % at 75 %, 13 % at 62 %
# (benchmarks/RESULTS.md, "Label issues").
SOUND = 0.8
FEW = 0.01  # of the images: about as many are doubted where every label is right
LABEL_ISSUES = "label_issues.csv"
_TOLERANCE = 1e-6  # of a threshold, as cleanlab has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelIssues:
    """Holds what confident learning found.

    Attributes:
      positions: int [K] of the images, the least credible label first.
      suggested: int [K], the label that the model would give instead.
      confidence: float [K], the model's probability of the label that the image has.
      joint: int [C, C]; how many images of a label (row) count for another one or for itself (column).
    """

    positions: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    joint: np.ndarray

    @property
    def noise(self) -> float:
        """Estimates the share of wrong labels among the images that count for some label."""
        return float(1 - self.joint.trace() / max(1, self.joint.sum()))


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Finds the label issues among images, by what a model that has not seen them makes of each.

    Args:
      labels: int [N].
      probabilities: float [N, C].
    """
    count, classes = probabilities.shape
    own = probabilities[np.arange(count), labels]
    # A label without images has no threshold that could be reached.
    present = np.bincount(labels, minlength=classes)
    thresholds = np.where(present, np.bincount(labels, own, classes) / np.maximum(present, 1), np.inf)
    reached = probabilities >= thresholds - _TOLERANCE
    counts_for = np.where(reached.sum(axis=1) > 1, probabilities.argmax(axis=1), reached.argmax(axis=1))
    confident = reached.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[confident], counts_for[confident]), 1)
    best = probabilities.argmax(axis=1)
    # Of equals, the image's own label is the model's answer.
    doubted = own < probabilities.max(axis=1)
    positions = np.flatnonzero(confident & (counts_for != labels) & doubted)
    positions = positions[np.argsort(own[positions], kind="stable")]
    return LabelIssues(positions=positions, suggested=best[positions], confidence=own[positions], joint=joint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelIssue:
    """Holds a row of label_issues.csv.

    Attributes:
      id: of the record, hex.
      source: of the record.
      label: that it has.
      suggested: that a model would give it instead.
      probability: that the model gives to the label that it has.
      split: that it stands in.
    """

    id: str
    source: str
    label: str
    suggested: str
    probability: float
    split: str


def issues_table(issues: Iterable[LabelIssue]) -> str:
    """Returns label_issues.csv, which --exclude and --relabel of the builder take."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(LabelIssue)])
    for one in issues:
        writer.writerow([one.id, one.source, one.label, one.suggested, f"{one.probability:.6f}", one.split])
    return text.getvalue()
