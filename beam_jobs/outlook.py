"""Judges what a build would publish: why it makes no dataset, and what a person should know of it. Free of Beam."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping

from beam_jobs.duplicates.alike import SCENE
from beam_jobs.elements import Copies, Listing, Reject
from beam_jobs.refusal import examples_of
from beam_jobs.settings import Settings
from beam_jobs.splits import split_order
from beam_jobs.summary import EXAMPLES, holds_out, named, shown, too_small
from pipeline.images.policy import RejectCode

# A copy is no fault of the input: nothing is lost by leaving it out. Nor is a class that was to be left out.
_NO_FAULT = frozenset(
    code.value
    for code in (
        RejectCode.DUPLICATE,
        RejectCode.NEAR_DUPLICATE,
        RejectCode.TRAIN_COPY_OF_TEST,
        RejectCode.SMALL_CLASS,
        RejectCode.EXCLUDED,
    )
)
_COPIES = frozenset(
    code.value
    for code in (
        RejectCode.DUPLICATE,
        RejectCode.NEAR_DUPLICATE,
        RejectCode.TRAIN_COPY_OF_TEST,
        RejectCode.LABEL_CONFLICT,
    )
)
_MANY_COPIES = 0.1  # of a class, or of the official training images
_NEAR = "if images that look alike are no copies of each other (a fixed camera), give --near_duplicates=keep"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """Counts what is kept and what is left out.

    Attributes:
      labels: class names in order, without those of classes that are left out as too small.
      label_order: see `Plan`.
      examples: split → label → images kept.
      sizes: split → bytes of its records, about.
      rejects: (official split or "", label, code) → images left out.
      too_small: label → why its class cannot be split.
    """

    labels: tuple[str, ...]
    label_order: str
    examples: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    rejects: Mapping[tuple[str, str, str], int]
    too_small: Mapping[str, str]

    @property
    def images(self) -> int:
        return sum(sum(of.values()) for of in self.examples.values())

    @property
    def refused(self) -> int:
        return sum(self.rejects.values())

    @property
    def by_code(self) -> dict[str, int]:
        counts: collections.Counter[str] = collections.Counter()
        for (_, _, code), count in sorted(self.rejects.items()):
            counts[code] += count
        return dict(counts)


def problem_of(outlook: Outlook, listing: Listing, settings: Settings) -> str | None:
    """Says why the images that are left make no dataset; None where they do."""
    build, total = settings.build, listing.total
    refused = sum(count for code, count in outlook.by_code.items() if code not in _NO_FAULT)
    labels_left = {label for by_label in outlook.examples.values() for label in by_label}
    gone = [label for label in outlook.labels if label not in labels_left]
    if refused > build.max_reject_fraction * total:
        return (
            f"{refused} of {total} images refused ({refused / total:.1%}), more than "
            f"--max_reject_fraction={build.max_reject_fraction:g} allows{_hint(outlook, settings)}"
        )
    if gone:
        return f'class "{gone[0]}": none of its images is usable{_hint(outlook, settings)}'
    if outlook.too_small and build.small_classes == "refuse":
        first = min(outlook.too_small)
        alike = listing.sizes[first] >= len(build.fractions.names) and build.near_duplicates != "keep"
        problem = too_small(outlook.too_small[first], len(outlook.too_small), len(outlook.labels), settings)
        return f"{problem}{f'; {_NEAR}' if alike else ''}"
    if len(outlook.labels) < 2:
        left = f'only the class "{outlook.labels[0]}"' if outlook.labels else "no class"
        return f"{left} is left, but a classifier needs two or more"
    return _no_training(outlook, listing, settings)


def _no_training(outlook: Outlook, listing: Listing, settings: Settings) -> str | None:
    """Says that there is nothing to learn from, or not for some class; a part of an official set may lack classes."""
    if "train" not in outlook.examples:
        return "no image is left for the train split" if listing.official else None
    never = [label for label in outlook.labels if not outlook.examples["train"].get(label)]
    if not never or settings.labels:
        return None
    return f"no model can learn {named(never)}: no image of {'it' if len(never) == 1 else 'them'} is in train"


def notes_of(outlook: Outlook, listing: Listing, rejects: Iterable[Reject], settings: Settings) -> list[str]:
    """Says what a person should know of the dataset, a sentence each; the same for the same images.

    Args:
      outlook: what is kept and left out.
      listing: what was listed.
      rejects: all that is left out; looked through only where copies are many.
      settings: of the build.
    """
    notes = []
    build = settings.build
    if holds_out(listing, build):
        part = f"{100 * build.validation_fraction:.3g}%"
        count = sum(outlook.examples.get("validation", {}).values())
        notes.append(
            f"the source has no validation split: {part} of train is held out, class by class ({count} images); "
            "--validation_fraction=0 turns this off"
        )
    if build.splits_given and listing.official and all(split for split, *_ in listing.counts):
        names = ", ".join(split_order(list(listing.official)))
        notes.append(f"--splits={build.fractions} does not apply: every image has an official split ({names})")
    if outlook.too_small and build.small_classes != "refuse":
        count = len(outlook.too_small)
        are, stand = ("classes are", "stand") if count > 1 else ("class is", "stands")
        split = "train" if "train" in build.fractions.names else build.fractions.names[0]
        what = f"{stand} in {split} only" if build.small_classes == "train" else f"{are.split()[1]} left out"
        notes.append(f"{count} {are} too small to be split and {what}: {named(sorted(outlook.too_small))}")
    notes += _single_splits(outlook)
    return notes + _copies(outlook, listing, rejects, settings)


def scenes(copies: Iterable[Copies]) -> list[str]:
    """Says that images look alike and are kept as no copies, in a sentence, if there are any."""
    found = [group for line in (group.line for group in copies) if (group := json.loads(line))["kind"] == SCENE]
    if not found:
        return []
    images = sum(len(group["members"]) for group in found)
    first = ", ".join(shown(uri) for uri in sorted(m["uri"] for group in found for m in group["members"])[:EXAMPLES])
    return [
        f"warning: {images} images look alike under different labels, too many for copies (a fixed camera?): all are "
        f"kept and shared out to the splits one by one, for example {first}; duplicates.jsonl has them as {SCENE}"
    ]


def _single_splits(outlook: Outlook) -> list[str]:
    """Names classes that stand in one of several splits only, by split."""
    if len(outlook.examples) < 2:
        return []
    where: dict[str, list[str]] = collections.defaultdict(list)
    for label in outlook.labels:
        splits = [split for split, of in outlook.examples.items() if of.get(label)]
        if len(splits) == 1 and label not in outlook.too_small:
            where[splits[0]].append(label)
    return [
        f"warning: {len(labels)} {'class stands' if len(labels) == 1 else 'classes stand'} in {split} only: "
        f"{named(labels)}"
        for split, labels in sorted(where.items())
    ]


def _copies(outlook: Outlook, listing: Listing, rejects: Iterable[Reject], settings: Settings) -> list[str]:
    """Warns where much of a class, or of the official train split, is left out as copies or conflicts."""
    of_class: collections.Counter[str] = collections.Counter()
    of_train = 0
    for (split, label, code), count in outlook.rejects.items():
        if code in _COPIES:
            of_class[label] += count
            of_train += count if split == "train" else 0
    totals = listing.sizes
    train = sum(count for official, _, count in listing.counts if official == "train")
    many = sorted(label for label, count in of_class.items() if count > _MANY_COPIES * totals[label])
    what = []
    if many:
        first = many[0]
        more = f" (so it is with {len(many)} classes)" if len(many) > 1 else ""
        what.append(f'{of_class[first]} of {totals[first]} images of class "{first}"{more}')
    if of_train > _MANY_COPIES * train:
        what.append(f"{of_train} of {train} images of train")
    if not what:
        return []
    concerned = (r for r in rejects if r.code in _COPIES and (r.item.label in many or r.item.split == "train"))
    shown_here = "; ".join(f"{shown(r.item.uri)} ({shown(r.detail)})" for r in examples_of(concerned))
    return [
        f"warning: {' and '.join(what)} are left out as copies or for contradicting labels, for example {shown_here}"
        f"{_hint(outlook, settings)}"
    ]


def _hint(outlook: Outlook, settings: Settings) -> str:
    """Says what helps if images that look alike are none: only where they are looked for, and some are left out."""
    alike = [code for code in outlook.by_code if code in _COPIES and code != RejectCode.DUPLICATE.value]
    return f"; {_NEAR}" if alike and settings.build.near_duplicates != "keep" else ""
