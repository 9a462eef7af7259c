"""Decides what stays of exact duplicates, images whose decoded pixels are equal, by pure functions over rows."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence

from beam_jobs.elements import Copies, Reject, Row, refuse
from pipeline.images.policy import RejectCode

# Of several copies the one in the most protected split stays: a test image must not be lost to a training copy of it.
_PROTECTION = {"test": 0, "validation": 1}
_SHOWN = 8  # items of a group that travel on, for the report


@dataclasses.dataclass(kw_only=True)
class Resolved:
    """Holds what `resolve`, or `alike.resolve_component`, decides.

    Attributes:
      kept: the rows that stay; one of those with equal pixels.
      rejects: the copies and conflicts that are left out.
      groups: the groups of copies.
    """

    kept: list[Row] = dataclasses.field(default_factory=list)
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    groups: list[Copies] = dataclasses.field(default_factory=list)


def protection(row: Row) -> int:
    """Ranks the row's official split: 0 for a test image, 1 for a validation image, 2 for all others."""
    return _PROTECTION.get(row.item.split or "", len(_PROTECTION))


def copies_of(kind: str, members: Sequence[Row], *, kept: Sequence[str]) -> Copies:
    """Describes a group of images that are copies of each other; `kept`: URIs of those that stay."""
    items = [row.item for row in members]
    shown = [{"uri": item.uri, "label": item.label, "split": item.split} for item in items]
    line = json.dumps({"kind": kind, "kept": list(kept), "members": shown}, ensure_ascii=False)
    return Copies(line=line, items=tuple(items[:_SHOWN]))


def _resolve_group(group: list[Row], out: Resolved) -> None:
    group.sort(key=lambda row: (protection(row), row.id, row.item.uri))
    first = group[0]
    rivals = {row.item.label for row in group if protection(row) == protection(first)}
    if len(rivals) > 1:
        names = " and ".join(sorted(rivals))
        for row in group:
            other = next(o for o in group if o.item.label != row.item.label)
            detail = f"the same picture stands under {names} ({other.item.uri})"
            out.rejects.append(refuse(row, RejectCode.LABEL_CONFLICT, detail))
        out.groups.append(copies_of("conflict", group, kept=()))
        return
    out.kept.append(first)
    for row in group[1:]:
        copy_of_test = protection(row) > protection(first)
        code = RejectCode.TRAIN_COPY_OF_TEST if copy_of_test else RejectCode.DUPLICATE
        where = f" of the {first.item.split} split" if copy_of_test else ""
        out.rejects.append(refuse(row, code, f"same pixels as {first.item.uri}{where}"))
    out.groups.append(copies_of("exact", group, kept=(first.item.uri,)))


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
