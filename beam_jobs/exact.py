"""Decides what stays of exact duplicates, images whose decoded pixels are equal, by pure functions over rows."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence

from beam_jobs.rows import RejectRow, Row
from pipeline.images.policy import RejectCode

# Of several copies the one in the most protected split stays: a test image must not be lost to a training copy of it.
_PROTECTION = {"test": 0, "validation": 1}


@dataclasses.dataclass(kw_only=True)
class Resolved:
    """Holds what `resolve`, or `duplicates.resolve_component`, decides.

    Attributes:
      kept: the rows that stay; one of those with equal pixels.
      rejects: the copies and conflicts that are left out.
      groups: a line of duplicates.jsonl for every group of copies.
    """

    kept: list[Row] = dataclasses.field(default_factory=list)
    rejects: list[RejectRow] = dataclasses.field(default_factory=list)
    groups: list[str] = dataclasses.field(default_factory=list)


def protection(row: Row) -> int:
    """Ranks the row's official split: 0 for a test image, 1 for a validation image, 2 for all others."""
    return _PROTECTION.get(row.official or "", len(_PROTECTION))


def group_line(kind: str, members: Sequence[Row], *, kept: Sequence[str]) -> str:
    """Writes one group as a line of JSON for duplicates.jsonl."""
    return json.dumps(
        {
            "kind": kind,
            "kept": list(kept),
            "members": [{"uri": row.uri, "label": row.label, "split": row.official} for row in members],
        },
        ensure_ascii=False,
    )


def _resolve_group(group: list[Row], out: Resolved) -> None:
    group.sort(key=lambda row: (protection(row), row.id, row.uri))
    first = group[0]
    rivals = {row.label for row in group if protection(row) == protection(first)}
    if len(rivals) > 1:
        names = " and ".join(sorted(rivals))
        for row in group:
            other = next(o for o in group if o.label != row.label)
            detail = f"the same picture stands under {names} ({other.uri})"
            out.rejects.append(RejectRow.make(row, RejectCode.LABEL_CONFLICT, detail))
        out.groups.append(group_line("conflict", group, kept=()))
        return
    out.kept.append(first)
    for row in group[1:]:
        copy_of_test = protection(row) > protection(first)
        code = RejectCode.TRAIN_COPY_OF_TEST if copy_of_test else RejectCode.DUPLICATE
        where = f" of the {first.official} split" if copy_of_test else ""
        out.rejects.append(RejectRow.make(row, code, f"same pixels as {first.uri}{where}"))
    out.groups.append(group_line("exact", group, kept=(first.uri,)))


def resolve(rows: Iterable[Row]) -> Resolved:
    """Decides among all rows with equal pixels.

    Args:
      rows: in any order; all copies of an image must be among them.

    Returns:
      One row of each set of copies: the one in the most protected official split (test, validation, train), with the
      smallest content hash among those. Where such copies stand under different labels, nobody knows the right one and
      all are held out.
    """
    by_pixels: dict[bytes, list[Row]] = collections.defaultdict(list)
    for row in rows:
        by_pixels[row.pixels].append(row)
    out = Resolved()
    for group in by_pixels.values():
        if len(group) == 1:
            out.kept.append(group[0])
        else:
            _resolve_group(group, out)
    return out
