"""Writes what a check found: report.html, label_issues.csv and check.json. Free of TensorFlow.

The page is one file without scripts and without anything to download.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record
from pipeline.pages.environment import environment, percent
from pipeline.pages.findings import WORDS, worst
from pipeline.pages.pictures import Picture, data_uri, find_records
from trainer.check.examine import Examined
from trainer.check.verdict import verdict_of
from trainer.report import charts
from trainer.report.label_issues import LABEL_ISSUES, LabelIssue, issues_table

REPORT = "report.html"
_SHOWN, _GROUPS, _IN_A_GROUP, _CHANGED = 24, 8, 6, 12


def write_check(
    folder: storage.Path, data: DatasetVersion, found: Examined, *, next_steps: Sequence[tuple[str, str]], when: str
) -> None:
    """Writes the files of a check.

    Args:
      folder: where to.
      data: the dataset, from whose shards the pictures are read.
      found: what was measured.
      next_steps: (what for, command) for a person to go on with.
      when: the time of the check.

    Raises:
      DataError: a shard is damaged.
    """
    storage.make_folder(folder)
    storage.write_atomically(storage.join(folder, LABEL_ISSUES), _issues_table(data, found), shared=True)
    context = _context(data, found) | {"next": next_steps, "when": when}
    text = environment(__package__).get_template("check.html.j2").render(context)
    storage.write_atomically(storage.join(folder, REPORT), text, shared=True)
    storage.write_atomically(
        storage.join(folder, "check.json"), json.dumps(_figures(data, found), indent=2) + "\n", shared=True
    )


def _issues_table(data: DatasetVersion, found: Examined) -> str:
    """Returns the table of label issues, the worst first."""
    names, images, issues = data.manifest.labels, found.images, found.issues
    return issues_table(
        LabelIssue(
            id=images.ids[at],
            source=images.sources[at],
            label=names[images.labels[at]],
            suggested=names[suggested],
            probability=float(own),
            split=images.splits[at],
        )
        for at, suggested, own in zip(found.asked[issues.positions], issues.suggested, issues.confidence, strict=True)
    )


def _figures(data: DatasetVersion, found: Examined) -> dict[str, Any]:
    """Returns what check.json holds, for programs."""
    asked = len(found.asked)
    return {
        "dataset": {
            "name": data.manifest.name,
            "version": data.manifest.version,
            "fingerprint": data.manifest.source_fingerprint,
        },
        "verdict": verdict_of(found.findings),
        "findings": [dataclasses.asdict(one) for one in found.findings],
        "images": {"total": found.total, "looked_at": len(found.images.ids), "asked": asked},
        "label_issues": {"count": len(found.issues.positions), "noise": found.issues.noise},
        "probe": {"correct": found.correct, "examples": asked},
        "shortcuts": [dataclasses.asdict(one) for one in found.shortcuts],
        "outliers": [found.images.ids[at] for at in found.outliers],
        "changes": found.changes and {"before": found.before, **dataclasses.asdict(found.changes)},
        "arrivals": found.arrivals and dataclasses.asdict(found.arrivals),
    }


def _context(data: DatasetVersion, found: Examined) -> dict[str, Any]:
    names, images, issues = data.manifest.labels, found.images, found.issues
    doubted = found.asked[issues.positions][:_SHOWN]
    lonely = found.outliers[:_SHOWN]
    groups = [group["members"][:_IN_A_GROUP] for group in found.alike[:_GROUPS]]
    changed = (
        {}
        if found.changes is None
        else {what: getattr(found.changes, what)[:_CHANGED] for what in ("relabelled", "moved", "added")}
    )
    by_source = dict(zip(images.sources, images.ids, strict=True))
    shown = {images.ids[at] for at in (*doubted, *lonely)}
    shown |= {image for several in changed.values() for image in several}
    shown |= {by_source[member["uri"]] for group in groups for member in group if member["uri"] in by_source}
    records: dict[str, Record] = {}
    for split in data.manifest.splits:
        records |= find_records(data, split, shown - records.keys())
    told = [
        f"looks like {names[suggested]}: {percent(float(answer[suggested]), 0)}, own label {percent(float(own), 0)}"
        for suggested, own, answer in zip(
            issues.suggested, issues.confidence, found.answers[issues.positions], strict=True
        )
    ]
    curve = found.curve
    return {
        "manifest": data.manifest,
        "total": found.total,
        "looked_at": len(images.ids),
        "verdict": verdict_of(found.findings),
        "level": worst(found.findings),
        "words": WORDS,
        "findings": found.findings,
        "num_issues": len(issues.positions),
        "issues": [_picture(records.get(images.ids[at]), names, line) for at, line in zip(doubted, told, strict=False)],
        "alike": [
            [_member(member, records.get(by_source.get(member["uri"], ""))) for member in group] for group in groups
        ],
        "outliers": [_picture(records.get(images.ids[at]), names, images.splits[at]) for at in lonely],
        "shortcuts": found.shortcuts,
        "probe": found.balanced_accuracy if len(found.asked) else None,
        "curve": curve and charts.photos_curve(
            curve.counts, 1 - curve.errors, 1 - curve.intervals[:, ::-1],
            beyond=[(count, *_accuracies(curve.error_at(count))) for count in _beyond(curve.counts, found.more)],
        ),
        "counts": found.counts,
        "before": found.before,
        "changes": {
            what: [_picture(records.get(image), names, "") for image in several] for what, several in changed.items()
        },
    }  # fmt: skip


def _accuracies(errors: np.ndarray) -> tuple[float, float, float]:
    """Returns the best guess and the 95 % interval of an accuracy, of its errors by several laws."""
    low, high = np.quantile(errors[1:], (0.025, 0.975))
    return float(1 - errors[0]), float(1 - high), float(1 - low)


def _beyond(counts: np.ndarray, more: int) -> np.ndarray:
    """Returns for how many images a law is drawn: from few to as many more as are spoken of."""
    return np.linspace(counts[0], counts[-1] + more, 40)


def _picture(record: Record | None, names: Sequence[str], told: str) -> Picture:
    if record is None:
        return Picture(label="", told=told, source="not in this version", uri=None)
    return Picture(label=names[record.label], told=told, source=record.source, uri=data_uri(record.image))


def _member(member: Mapping[str, Any], record: Record | None) -> Picture:
    uri = data_uri(record.image) if record else None
    return Picture(label=member["label"], told=member["split"] or "", source=member["uri"], uri=uri)
