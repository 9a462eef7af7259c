"""Measures all that is said of a dataset, on the features of its images. NumPy only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.rows import Changes
from pipeline.linear.probe import deal_folds, out_of_fold
from pipeline.linear.regression import cross_validate
from pipeline.pages.findings import Finding
from trainer.check import learning_curve, verdict
from trainer.check.arrivals import Arrivals, compare_arrivals
from trainer.check.facts import CheckedImages
from trainer.check.learning_curve import LearningCurve
from trainer.check.outliers import find_outliers
from trainer.check.shortcuts import Shortcut, balanced_accuracy, columns_of, find_shortcuts
from trainer.report.label_issues import SOUND, LabelIssues, find_label_issues

_CURVE_IMAGES = 2_000  # more would not move the curve by what its interval allows
_DUPLICATES = "duplicates.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """Holds what was measured of a dataset.

    Attributes:
      images: that were looked at.
      total: images of the dataset.
      asked: int [n], positions of the images that heads were asked about which had not seen them.
      answers: float32 [n, C], the heads' probabilities.
      issues: positions refer to `asked`.
      curve: what more images would bring; None where no head could be asked about any.
      more: how many more the findings speak of.
      shortcuts: what is known without pictures.
      outliers: int [K], positions of images.
      alike: groups of look-alikes with several labels, as duplicates.jsonl has them.
      counts: split → images of each label.
      before: the version that this one is compared with, or "".
      changes: since that one; None without one.
      arrivals: how images that were added since differ from the others; None where there are none.
      findings: the judgement of it all.
    """

    images: CheckedImages
    total: int
    asked: np.ndarray
    answers: np.ndarray
    issues: LabelIssues
    curve: LearningCurve | None
    more: int
    shortcuts: Sequence[Shortcut]
    outliers: np.ndarray
    alike: Sequence[Mapping[str, Any]]
    counts: Mapping[str, Sequence[int]]
    before: str
    changes: Changes | None
    arrivals: Arrivals | None
    findings: Sequence[Finding]

    @property
    def balanced_accuracy(self) -> float:
        """Returns the mean recall of the heads, on images that they had not seen."""
        return balanced_accuracy(self.images.labels[self.asked], self.answers.argmax(axis=1))

    @property
    def doubts_labels(self) -> bool:
        """Says whether labels look wrong to heads that are good enough to be asked."""
        return bool(len(self.issues.positions)) and self.correct >= SOUND * len(self.asked)

    @property
    def correct(self) -> int:
        """Counts the images that a head which had not seen them gave their label."""
        return int((self.answers.argmax(axis=1) == self.images.labels[self.asked]).sum())


def examine(
    data: DatasetVersion,
    images: CheckedImages,
    features: np.ndarray,
    *,
    before: str,
    changes: Changes | None,
    seed: int,
) -> Examined:
    """Measures and judges a dataset.

    Args:
      data: the dataset.
      images: N that were looked at.
      features: float32 [N, F], of these images.
      before: the version that it is compared with, or "".
      changes: since that version.
      seed: of folds, parts and resampling.
    """
    labels, classes = images.labels, data.manifest.num_classes
    counts = {split: data.label_counts(split) for split in data.manifest.splits}
    folds = deal_folds(labels, images.groups, seed=seed)
    asked = np.flatnonzero(folds >= 0)
    weights = np.ones(classes, np.float32)
    strength = cross_validate(features, labels, class_weights=weights, seed=seed).strength
    answers = np.exp(out_of_fold(features, labels, folds, num_classes=classes, strength=strength)[asked])
    few = slice(_CURVE_IMAGES)
    curve = None
    if asked.size:
        curve = learning_curve.measure(
            features[few], labels[few], folds[few], num_classes=classes, strength=strength, seed=seed
        )
    issues = find_label_issues(labels[asked], answers)
    found = Examined(
        images=images,
        total=sum(map(sum, counts.values())),
        asked=asked,
        answers=answers,
        issues=issues,
        curve=curve,
        more=_round_number(sum(counts.get("train", [len(labels)])) / 2),
        shortcuts=find_shortcuts(columns_of(images.numbers, images.cameras), labels, folds, num_classes=classes),
        outliers=find_outliers(features),
        alike=list(_alike(data)),
        counts=counts,
        before=before,
        changes=changes,
        arrivals=_arrivals(images, features, changes, asked, asked[issues.positions], strength=strength, seed=seed),
        findings=(),
    )
    return dataclasses.replace(found, findings=tuple(_findings(found, data.manifest.labels)))


def _arrivals(
    images: CheckedImages,
    features: np.ndarray,
    changes: Changes | None,
    asked: np.ndarray,
    doubted: np.ndarray,
    *,
    strength: float,
    seed: int,
) -> Arrivals | None:
    """Compares the images that were added with the others; `asked`, `doubted`: positions."""
    added = set(changes.added if changes else ())
    new = np.array([image in added for image in images.ids])
    if not new.any() or new.all():
        return None
    everywhere = np.arange(len(new))
    return compare_arrivals(
        features,
        images.labels,
        images.groups,
        new,
        asked=np.isin(everywhere, asked),
        doubted=np.isin(everywhere, doubted),
        strength=strength,
        seed=seed,
    )


def _findings(found: Examined, names: Sequence[str]) -> Iterator[Finding]:
    """Judges what was measured, what matters most first."""
    labels = found.images.labels[found.asked]
    if not labels.size:
        yield verdict.too_few()
    else:
        yield verdict.judge_labels(
            len(found.issues.positions),
            noise=found.issues.noise,
            images=len(labels),
            accuracy=found.correct / len(labels),
        )
        commonest = np.bincount(labels).max() / len(labels)
        yield verdict.judge_ceiling(found.correct, images=len(labels), commonest=commonest)
    yield verdict.judge_alike(len(found.alike))
    yield verdict.judge_balance(found.counts, names)
    yield verdict.judge_splits(found.counts, names)
    if labels.size:
        classes = len(np.unique(labels))
        yield verdict.judge_shortcuts(found.shortcuts, probe=found.balanced_accuracy, classes=classes)
    yield verdict.judge_outliers(len(found.outliers), images=len(found.images.ids))
    if found.changes is not None:
        counted = {name: len(ids) for name, ids in dataclasses.asdict(found.changes).items()}
        yield verdict.judge_changes(counted, before=found.before, images=found.total)
    if found.arrivals is not None:
        yield from verdict.judge_arrivals(found.arrivals)
    if found.curve is not None:
        fewer = min(len(found.images.ids), _CURVE_IMAGES) < found.total
        beside = sum(found.counts.get("train", ())) if fewer else 0
        yield verdict.judge_curve(found.curve, more=found.more, beside=beside)


def _round_number(count: float) -> int:
    """Rounds to one significant digit, at least 10."""
    power = 10 ** (len(str(int(count))) - 1)
    return max(10, round(count / power) * power)


def _alike(data: DatasetVersion) -> Iterator[dict[str, Any]]:
    """Yields the build's groups of look-alikes that have several labels."""
    try:
        text = storage.read_text(storage.join(data.path, _DUPLICATES))
    except FileNotFoundError:
        return
    # Not splitlines: names of files may hold what it takes for the end of a line (U+2028).
    for group in map(json.loads, filter(None, text.split("\n"))):
        if len({member["label"] for member in group["members"]}) > 1:
            yield group
