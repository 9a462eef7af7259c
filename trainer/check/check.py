"""Checks a dataset: computes features, measures and judges on them, and writes what was found."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

import numpy as np

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.places import check_folder
from pipeline.format.rows import (
    Changes,
    KnownImages,
    changes_between,
    checks_folder,
    dataset_root,
    known_images,
    version_before,
)
from trainer.check.examine import Examined, examine
from trainer.check.facts import gather
from trainer.check.features import compute_features, pooled
from trainer.check.page import REPORT, write_check
from trainer.check.verdict import verdict_of
from trainer.recipes.recipe import Recipe
from trainer.report.label_issues import LABEL_ISSUES
from trainer.request import Request
from trainer.rundir import now


def check(
    request: Request,
    recipe: Recipe,
    data: DatasetVersion,
    *,
    output: storage.Path,
    most: int,
    against: DatasetVersion | None = None,
) -> Examined:
    """Checks a dataset and writes report, table and figures to `output`.

    Args:
      request: what a run would be asked for.
      recipe: that it means.
      data: the dataset that it names.
      output: folder.
      most: how many images are looked at, about; 0: all.
      against: the version that it is compared with; None: the one before it, if there is one.

    Raises:
      DataError: a shard or a table of the build is damaged.
    """
    known = known_images(data)
    folder = _writable(checks_folder(data)) or output
    computed = compute_features(request, pooled(recipe), data, _counts(data, most), folder=folder)
    images = gather(data, {split: len(labels) for split, (_, labels) in computed.items()}, known)
    features = np.concatenate([values for values, _ in computed.values()])
    before, changes = _changes(known, against or version_before(data))
    found = examine(data, images, features, before=before, changes=changes, seed=request.seed)
    write_check(output, data, found, next_steps=list(_next_steps(request.data, found, output)), when=now())
    return found


def lines(found: Examined, output: storage.Path) -> Iterator[str]:
    """Says what was found: a line for each subject, the verdict, and where to read on."""
    looked = len(found.images.ids)
    if looked < found.total:
        yield f"looked at {looked:,} of {found.total:,} images (--images=0 looks at all)"
    for one in found.findings:
        yield f"  {one.level:<6}{one.text}"
    yield verdict_of(found.findings)
    if len(found.issues.positions):
        yield f"labels that look wrong, worst first: {storage.join(output, LABEL_ISSUES)}"
    yield f"report: {storage.join(output, REPORT)}"


def _counts(data: DatasetVersion, most: int) -> dict[str, int]:
    """Shares out to the splits how many images are looked at."""
    sizes = {split: data.manifest.num_examples(split) for split in data.manifest.splits}
    share = min(1.0, most / sum(sizes.values())) if most else 1.0
    return {split: math.ceil(size * share) for split, size in sizes.items() if size}


def _writable(folder: str) -> str | None:
    """Returns the folder, if something can be written there."""
    try:
        check_folder(folder, flag="data")
    except UsageError:
        return None
    return folder


def _changes(known: KnownImages, before: DatasetVersion | None) -> tuple[str, Changes | None]:
    """Compares the dataset with another version, if there is one."""
    if before is None:
        return "", None
    return before.manifest.version, changes_between(known_images(before), known)


def _next_steps(data: str, found: Examined, output: storage.Path) -> Iterator[tuple[str, str]]:
    """Lists what a person may do now: (what for, command)."""
    if found.doubts_labels:
        table, root = storage.join(output, LABEL_ISSUES), dataset_root(data)
        yield (
            f"Look at the labels below, delete from {LABEL_ISSUES} the lines of those that are right after all, and "
            "build once more, with the flags as before and the table: --relabel gives these images the suggested "
            "label, --exclude leaves them out",
            f"python -m beam_jobs.build_tfrecords … --output={shlex.quote(root)} --relabel={shlex.quote(table)}",
        )
    yield "Train", f"python -m trainer.main --data={shlex.quote(data)} --run=RUN"
