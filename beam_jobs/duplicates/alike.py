"""Decides what becomes of images that look alike, by pure functions over rows. (exact.py handles equal pixels.)"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

import numpy as np

from beam_jobs.duplicates import lsh
from beam_jobs.duplicates.exact import Resolved, copies_of, protection
from beam_jobs.elements import Group, Row, refuse
from pipeline.images.policy import RejectCode

# Two pictures are the same one, however they were saved, and not just alike: enough to call their labels a conflict.
# Recompressed, resized and brightness-shifted copies are almost all above, cropped ones half.
SAME_PICTURE = 0.93
# So many images of two classes, and so large parts of them, do not look alike because they are copies: a fixed camera
# took them, and the label says what the hash does not see. Of a picture that was filed twice there are fewer.
_SCENE_IMAGES, _SCENE_SHARE = 5, 0.2
SCENE = "scene"  # the kind of such a group in duplicates.jsonl

COMPONENT = np.dtype([*lsh.MEMBER.descr, ("picture", f"V{lsh.ID_BYTES}")])


def find_components(edges: np.ndarray) -> np.ndarray:
    """Finds the components of the pairs that are similar, and of those that show the same picture.

    Args:
      edges: lsh.EDGE [n].

    Returns:
      COMPONENT [m], by id: the smallest ids of its component, and of those that show the same picture.
    """
    members, same = lsh.components(edges), lsh.components(edges, at_least=SAME_PICTURE)
    found = np.empty(len(members), COMPONENT)
    found["id"], found["component"], found["picture"] = members["id"], members["component"], members["id"]
    ids = f"S{lsh.ID_BYTES}"  # NumPy does not put raw bytes in order
    found["picture"][np.searchsorted(members["id"].view(ids), same["id"].view(ids))] = same["component"]
    return found


def _conflicts(rows: Iterable[tuple[Row, bytes]], out: Resolved) -> list[Row]:
    """Takes out the pictures that stand under several labels; returns the other rows."""
    pictures: dict[bytes, list[Row]] = collections.defaultdict(list)
    for row, picture in rows:
        pictures[picture].append(row)
    others = []
    for members in pictures.values():
        first = min(protection(row) for row in members)
        rivals = [row for row in members if protection(row) == first]
        if len({row.item.label for row in rivals}) == 1:
            others += members
            continue
        names = " and ".join(sorted({row.item.label for row in rivals}))
        members.sort(key=lambda row: (row.id, row.item.uri))
        for row in members:
            other = next(o for o in members if o.item.label != row.item.label)
            detail = f"the same picture, saved differently, stands under {names} ({other.item.uri})"
            out.rejects.append(refuse(row, RejectCode.LABEL_CONFLICT, detail))
        out.groups.append(copies_of("near_conflict", members, kept=()))
    return others


def _is_scene(rows: Iterable[Row], sizes: Mapping[str, int]) -> bool:
    """Says whether rows that look alike are of several classes in numbers beyond chance."""
    counts = collections.Counter(row.item.label for row in rows)
    many = [
        label
        for label, count in counts.items()
        if count >= _SCENE_IMAGES and count >= _SCENE_SHARE * sizes.get(label, 0)
    ]
    return len(many) > 1


def resolve_component(
    rows: Iterable[tuple[Row, bytes]], *, mode: str, sizes: Mapping[str, int] | None = None
) -> Resolved:
    """Decides about one component.

    Args:
      rows: (row, what `find_components` says for the same picture), in any order.
      mode: "group" keeps all and gives them one split; "drop" keeps the largest of each label.
      sizes: label → images listed, for telling scenes from copies: where two labels have five images or more in the
        component, and a fifth of their class or more, all are kept, each by itself. None: nothing is a scene.

    Returns:
      What stays, with its `group`; rejects: pictures under several labels (which is right nobody knows), near copies of
      a more protected official split's images, and in mode "drop" the smaller copies.
    """
    out = Resolved()
    rows = list(rows)
    if sizes and _is_scene((row for row, _ in rows), sizes):
        out.kept = sorted((row for row, _ in rows), key=lambda row: (row.id, row.item.uri))
        out.groups.append(copies_of(SCENE, out.kept, kept=[row.item.uri for row in out.kept]))
        return out
    left = _conflicts(rows, out)
    if not left:
        return out
    left.sort(key=lambda row: (protection(row), -row.facts.height * row.facts.width, row.id, row.item.uri))
    first = left[0]
    kept: dict[str, list[Row]] = collections.defaultdict(list)
    for row in left:
        same_label = kept[row.item.label]
        if protection(row) > protection(first):
            detail = f"looks like {first.item.uri} of the {first.item.split} split"
            out.rejects.append(refuse(row, RejectCode.TRAIN_COPY_OF_TEST, detail))
        elif mode == "drop" and same_label:
            out.rejects.append(refuse(row, RejectCode.NEAR_DUPLICATE, f"looks like {same_label[0].item.uri}"))
        else:
            same_label.append(row)
    # Named after a member that no later, larger copy displaces.
    name = min(row.pixels for row in left)
    free = [row for row in left if row.item.split is None]
    stratum = min(free or left, key=lambda row: row.pixels).item.label
    # Where only some images have an official split, those that look like them go there too.
    official = first.item.split or next((row.item.split for row in left if row.item.split), None)
    out.kept = [
        row.grouped(Group(name=name, stratum=stratum, official=row.item.split or official))
        for several in kept.values()
        for row in several
    ]
    if len(left) > 1:
        out.groups.append(copies_of("near", left, kept=[row.item.uri for row in out.kept]))
    return out
