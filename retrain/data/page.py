"""Writes what the data gate found: gate-data.json for programs, gate-data.html with pictures for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record
from pipeline.pages.environment import environment
from pipeline.pages.pictures import Picture, data_uri, find_records
from retrain.data.gate import DataCheck, Outcome, worst

RESULT, PAGE = "gate-data.json", "gate-data.html"
BESIDE = ".data"  # what the name of the folder beside a run ends with; the trainer wants the run for itself
_SHOWN = 24  # images of a check
_Found = tuple[Record, str, str]  # with the names of its label and split
_LEVELS = {Outcome.OK: "green", Outcome.WARN: "amber", Outcome.HOLD: "red"}


def folder_beside(run: str) -> str:
    """Names the folder for what was found of a run's dataset."""
    return f"{run}{BESIDE}"


def write_data_gate(
    folder: storage.Path,
    checks: Sequence[DataCheck],
    *,
    content: str,
    accepted: bool,
    data: DatasetVersion,
    reference: DatasetVersion | None,
    check: str | None,
) -> None:
    """Writes both files.

    Args:
      folder: where to.
      checks: what was found.
      content: id of the dataset's content, which a configuration may accept.
      accepted: whether it does.
      data: the dataset.
      reference: what it was compared with.
      check: relative address of the page of `trainer.check`; None without one.

    Raises:
      DataError: a shard is damaged.
    """
    context: dict[str, Any] = {
        "dataset": {"version": data.manifest.version, "content": content},
        "reference": reference and reference.manifest.version,
        "outcome": worst(checks),
        "accepted": accepted,
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    storage.make_folder(folder)
    storage.write_atomically(storage.join(folder, RESULT), json.dumps(context, indent=2, ensure_ascii=False) + "\n")
    pictures = {check.name: _pictures(check, data, reference) for check in checks}
    page = environment(__package__).get_template("page.html.j2")
    text = page.render(context, name=data.manifest.name, pictures=pictures, levels=_LEVELS, check_page=check)
    storage.write_atomically(storage.join(folder, PAGE), text)


def _pictures(check: DataCheck, data: DatasetVersion, reference: DatasetVersion | None) -> list[Picture]:
    """Finds the pictures of a check, in the dataset or, of what is gone, in the one before."""
    wanted = check.images[:_SHOWN]
    if not wanted:
        return []
    now, before = _found(data, wanted), _found(reference, wanted) if reference else {}
    both = {**before, **now}
    return [_picture(both[image], now=now.get(image), before=before.get(image)) for image in wanted if image in both]


def _found(data: DatasetVersion, wanted: Sequence[str]) -> Mapping[str, _Found]:
    """Finds the records of images."""
    return {
        image: (record, data.manifest.labels[record.label], split)
        for split in data.manifest.splits
        for image, record in find_records(data, split, wanted).items()
    }


def _picture(found: _Found, *, now: _Found | None, before: _Found | None) -> Picture:
    told = "new" if before is None else "gone" if now is None else ""
    if now and before:
        told = f"was {before[1]}" if before[1] != now[1] else f"was in {before[2]}, now in {now[2]}"
    record, label, _ = found
    return Picture(label=label, told=told, source=record.source, uri=data_uri(record.image))
