"""Checks datasets from Python, as `python -m trainer.check` does, in this process."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence

from pipeline.format import storage
from pipeline.pages.findings import Finding, Level, worst
from trainer.api.asked import read_own_code_anew, request_of
from trainer.api.building import Dataset
from trainer.api.inputs import place_of
from trainer.api.notebook import guest, in_a_cell
from trainer.check.asked import IMAGES, check_asked
from trainer.check.verdict import verdict_of
from trainer.report.label_issues import LABEL_ISSUES


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Says whether a dataset is fit to be trained on.

    Attributes:
      verdict: in a line.
      findings: one for each subject, green, amber or red.
      issues: the images whose label looks wrong, worst first: id, source, label, suggested and more, as the columns of
        `issues_file` name them.
      issues_file: the table of these, which `build_dataset` takes as `relabel` and `exclude`.
      report: the page that shows it.
    """

    verdict: str
    findings: Sequence[Finding]
    issues: Sequence[Mapping[str, str]]
    issues_file: str
    report: str

    @property
    def ready(self) -> bool:
        """Says whether nothing was found that speaks against training."""
        return worst(self.findings) is not Level.RED

    def _repr_html_(self) -> str:
        return in_a_cell(self.report)


def check(
    data: str | os.PathLike[str] | Dataset,
    *,
    output: str | os.PathLike[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    images: int = IMAGES,
    recipe: str | os.PathLike[str] = "photos",
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
) -> CheckResult:
    """Checks a dataset: which labels look wrong, what a model may reach, what would help. A minute for 700 photos.

    Args:
      data: the dataset, or its root.
      output: folder for what is found; None: DATA/checks/<version>.
      against: version directory to compare with; None: the version before.
      images: how many are looked at, about; 0: all.
      recipe, backbone, weights, settings: as for `train`: with them the images are seen.
      seed: of what is drawn at random.

    Raises:
      UsageError, DataError, TryAgainError: as the command ends, with its text.
    """
    place = data.path if isinstance(data, Dataset) else place_of(data, None)
    request = request_of(place, recipe=recipe, backbone=backbone, weights=weights, settings=settings, seed=seed)
    with guest():
        read_own_code_anew(request)
        _, found, folder = check_asked(
            request,
            output=os.fspath(output) if output else None,
            against=os.fspath(against) if against else None,
            most=images,
        )
    from trainer.check.page import REPORT  # beside what draws

    table = storage.join(folder, LABEL_ISSUES)
    return CheckResult(
        verdict=verdict_of(found.findings),
        findings=tuple(found.findings),
        issues=tuple(csv.DictReader(io.StringIO(storage.read_text(table)))),
        issues_file=table,
        report=storage.join(folder, REPORT),
    )
