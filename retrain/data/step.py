"""Looks at a dataset before it is trained on: runs `trainer.check`, and judges by it and by the build's tables."""

from __future__ import annotations

import json
import os

from pipeline.command import CommandError
from pipeline.format import storage
from pipeline.format.manifest import VERSIONS_DIR, DatasetVersion, open_dataset
from pipeline.format.rows import KnownImages, changes_between, known_images
from retrain.data.gate import DataCheck, Outcome, judge_against, judge_alone
from retrain.registry import Model
from retrain.steps import Steps

CHECK = "check"  # folder of what `trainer.check` found


def judge_data(
    steps: Steps, data: DatasetVersion, current: KnownImages, champion: Model | None, folder: str
) -> tuple[list[DataCheck], DatasetVersion | None]:
    """Checks a dataset against the one that the champion comes from.

    Args:
      steps: of the pass.
      data: the dataset.
      current: what is known of its images.
      champion: the model to be replaced; None without one.
      folder: for what `trainer.check` writes, in its `check`.

    Returns:
      What was found, and the dataset compared with; None without one.

    Raises:
      CommandError: the check has failed, or a table of the build is damaged.
    """
    config = steps.config
    reference = _dataset_of(champion, config.data)
    arrivals = None
    if config.check is not False:
        against = os.fspath(reference.path) if reference else None
        file = steps.check(storage.join(folder, CHECK), against=against)
        arrivals = json.loads(storage.read_text(file))["arrivals"]
    checks = list(judge_alone(current, data.manifest.labels, config.data_gate))
    if reference:
        before = known_images(reference)
        checks += judge_against(before, current, changes_between(before, current), arrivals, config.data_gate)
    elif champion:
        text = f"the dataset of the champion ({champion.dataset() or 'not noted'}) is gone: nothing is compared"
        checks.append(DataCheck(name="reference", outcome=Outcome.WARN, text=text))
    return checks, reference


def _dataset_of(champion: Model | None, root: str) -> DatasetVersion | None:
    """Opens the version that the champion was trained on, wherever the dataset root lies now."""
    noted = champion.dataset() if champion else ""
    if not noted:
        return None
    try:
        return open_dataset(storage.join(root, VERSIONS_DIR, os.path.basename(noted)))
    except CommandError:
        return None
