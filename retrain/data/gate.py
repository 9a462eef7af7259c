"""Judges a dataset before anything is trained on it, against the one that the champion comes from. NumPy only.

Images are compared by their content ids, so what was lost, relabelled or moved is known exactly. What is a matter of
chance (other labels, other photos, wrong labels among new images) is tested by permutation (`pipeline.shift`), never by
a threshold of a divergence, which for few images is chance itself.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format.manifest import TEST, TRAIN, VALIDATION
from pipeline.format.rows import Changes, KnownImages
from pipeline.intervals import difference_interval, wilson_interval
from pipeline.shift import Shift, holm, in_both, kolmogorov_smirnov, label_shift, sample_positions, total_variation
from retrain.limits import DataGateConfig

_NAMED = 5  # labels that a sentence names
_COMPARED = 2_000  # images of each group whose facts are compared, at most
_FEWEST = 5  # new images, below which no test is made
_FEW_RELABELLED = 5  # of a label, below which nothing is held


class Outcome(enum.StrEnum):
    """Says what a check of the data asks for: nothing, a look, or that nothing is trained."""

    OK = "ok"
    WARN = "warn"
    HOLD = "hold"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Holds what one check found.

    Attributes:
      name: of the check.
      outcome: what it asks for.
      text: for people, in one line.
      figures: behind it.
      images: ids to be looked at.
    """

    name: str
    outcome: Outcome
    text: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: tuple[str, ...] = ()


def worst(checks: Iterable[DataCheck]) -> Outcome:
    """Returns the most serious outcome of all checks."""
    found = {check.outcome for check in checks}
    return next((one for one in (Outcome.HOLD, Outcome.WARN) if one in found), Outcome.OK)


def judge_alone(current: KnownImages, labels: Sequence[str], config: DataGateConfig) -> Iterator[DataCheck]:
    """Judges what needs nothing to compare with: whether every label can be trained, chosen by and measured."""
    counts = {
        split: collections.Counter(
            label for label, of in zip(current.labels, current.splits, strict=True) if of == split
        )
        for split in (TRAIN, VALIDATION, TEST)
    }
    untested = [label for label in labels if not counts[TEST][label]]
    few = [label for label in labels if 0 < counts[TEST][label] < config.few_test]
    unseen = [label for label in labels if not counts[VALIDATION][label]]
    parts = [
        f"no test image of {_named(untested)}" if untested else "",
        f"fewer than {config.few_test} test images of {_named(few)}" if few else "",
        f"no validation image of {_named(unseen)}" if unseen else "",
    ]
    yield DataCheck(
        name="emptiness",
        outcome=Outcome.HOLD if untested else Outcome.WARN if few or unseen else Outcome.OK,
        text="; ".join(filter(None, parts)) or "every label has test and validation images",
        figures={"without_test": untested, "few_test": few, "without_validation": unseen},
    )


def judge_against(
    reference: KnownImages,
    current: KnownImages,
    changes: Changes,
    arrivals: Mapping[str, Any] | None,
    config: DataGateConfig,
) -> Iterator[DataCheck]:
    """Judges a dataset against the one that the champion comes from.

    Args:
      reference: the images of that one.
      current: the images of this one.
      changes: from one to the other.
      arrivals: what `trainer.check` found of the images that were added (`check.json`); None where it found nothing.
      config: says what is held.
    """
    yield _labels(reference, current, config)
    yield _lost(reference, changes, config)
    yield _relabelled(reference, current, changes, config)
    yield _moved(changes)
    new = np.isin(np.array(current.ids), np.array(changes.added))
    yield _label_shift(current, new, config)
    yield _facts(current, new, config)
    yield _pixels(arrivals, config)
    yield _label_noise(arrivals, config)


def _labels(reference: KnownImages, current: KnownImages, config: DataGateConfig) -> DataCheck:
    removed = sorted(set(reference.labels) - set(current.labels))
    unnamed = [label for label in removed if label not in config.removed_labels]
    added = sorted(set(current.labels) - set(reference.labels))
    parts = [
        f"gone: {_named(removed)}" if removed else "",
        f"new: {_named(added)}" if added else "",
    ]
    text = "; ".join(filter(None, parts)) or "the same labels"
    if unnamed:
        text += f"; if that is meant, data_gate.removed_labels: [{', '.join(unnamed)}]"
    outcome = Outcome.HOLD if unnamed else Outcome.WARN if added else Outcome.OK
    return DataCheck(name="labels", outcome=outcome, text=text, figures={"removed": removed, "added": added})


def _lost(reference: KnownImages, changes: Changes, config: DataGateConfig) -> DataCheck:
    removed = set(changes.removed)
    meant = set(config.removed_labels)
    counted = [
        (image, label) for image, label in zip(reference.ids, reference.labels, strict=True) if label not in meant
    ]
    lost = [(image, label) for image, label in counted if image in removed]
    of_label = _shares((label for _, label in lost), (label for _, label in counted))
    share = len(lost) / max(1, len(counted))
    much = {label: part for label, part in of_label.items() if part > config.lost_of_label}
    text = f"{len(lost):,} of {len(counted):,} images of the champion's dataset are gone ({share:.1%})"
    if much:
        text += f"; {_named([f'{label} {part:.0%}' for label, part in much.items()])}"
    held = share > config.lost or bool(much)
    return DataCheck(
        name="lost images",
        outcome=Outcome.HOLD if held else Outcome.OK,
        text=text,
        figures={"lost": len(lost), "share": share, "of_label": of_label},
        images=tuple(image for image, _ in lost),
    )


def _relabelled(reference: KnownImages, current: KnownImages, changes: Changes, config: DataGateConfig) -> DataCheck:
    before = dict(zip(reference.ids, reference.labels, strict=True))
    after = dict(zip(current.ids, current.labels, strict=True))
    pairs = collections.Counter((before[image], after[image]) for image in changes.relabelled)
    counts = collections.Counter(before[image] for image in changes.relabelled)
    of_label = _shares(counts.elements(), reference.labels)
    much = [
        label for label, count in counts.items() if count >= _FEW_RELABELLED and of_label[label] > config.relabelled
    ]
    listed = [f"{count} from {old} to {new}" for (old, new), count in pairs.most_common()]
    count = len(changes.relabelled)
    text = f"{count:,} images have another label: {_named(listed)}" if count else "no image has another label"
    return DataCheck(
        name="relabelled",
        outcome=Outcome.HOLD if much else Outcome.WARN if count else Outcome.OK,
        text=text,
        figures={"relabelled": count, "of_label": of_label},
        images=changes.relabelled,
    )


def _moved(changes: Changes) -> DataCheck:
    count = len(changes.moved)
    return DataCheck(
        name="moved split",
        outcome=Outcome.WARN if count else Outcome.OK,
        text=f"{count:,} images stand in another split" if count else "no image stands in another split",
        figures={"moved": count},
        images=changes.moved,
    )


def _label_shift(current: KnownImages, new: np.ndarray, config: DataGateConfig) -> DataCheck:
    names, labels = np.unique(np.array(current.labels), return_inverse=True)
    known = np.isin(labels, np.unique(labels[~new]))  # a new label is the business of another check
    if np.count_nonzero(new & known) < _FEWEST or new.all():
        return _too_few("label shift", int(np.count_nonzero(new & known)))
    before, of_new = (np.bincount(labels[part & known], minlength=len(names)) for part in (~new, new))
    found = label_shift(before, of_new, seed=0)
    shifted = found.p_value < config.level and found.distance > config.label_shift
    ratio = (of_new / of_new.sum()) - (before / before.sum())
    most = int(ratio.argmax())
    text = (
        f"{of_new.sum():,} new images, {of_new[most] / of_new.sum():.0%} of them {names[most]} where it was "
        f"{before[most] / before.sum():.0%}: total variation {found.distance:.2f}, p = {found.p_value:.2g}"
    )
    whole = total_variation(before, before + of_new)
    return DataCheck(
        name="label shift",
        outcome=Outcome.WARN if shifted else Outcome.OK,
        text=text,
        figures={"total_variation": found.distance, "p_value": found.p_value, "of_all_images": whole},
    )


def _facts(current: KnownImages, new: np.ndarray, config: DataGateConfig) -> DataCheck:
    labels = np.unique(np.array(current.labels), return_inverse=True)[1]
    comparable = np.flatnonzero(in_both(labels, new))
    at = comparable[sample_positions(new[comparable], most=_COMPARED, seed=0)]
    if np.count_nonzero(new[at]) < _FEWEST:
        return _too_few("facts", int(np.count_nonzero(new[at])))
    known = {name: values[at] for name, values in current.facts.items() if np.isfinite(values[at]).all()}
    found = kolmogorov_smirnov(known, labels[at], new[at], seed=0)
    adjusted, shifted = shifted_facts(found, config)
    told = [f"{name.replace('_', ' ')} {found[name].distance:.2f} (p = {adjusted[name]:.2g})" for name in shifted]
    return DataCheck(
        name="facts",
        outcome=Outcome.WARN if shifted else Outcome.OK,
        text=f"new images differ from the others of their label in {_named(told)}"
        if shifted
        else f"new images are like the others in {_named([name.replace('_', ' ') for name in found])}",
        figures={name: {"distance": one.distance, "p_value": adjusted[name]} for name, one in found.items()},
    )


def shifted_facts(found: Mapping[str, Shift], config: DataGateConfig) -> tuple[dict[str, float], list[str]]:
    """Returns the p-values of facts, adjusted by Holm, and the names of those that differ by more than the limits."""
    adjusted = holm({name: one.p_value for name, one in found.items()})
    return adjusted, [
        name for name, one in found.items() if adjusted[name] < config.level and one.distance > config.fact_shift
    ]


def judge_pixels(p_value: float, area: float, config: DataGateConfig) -> Outcome:
    """Says what images ask for that differ by chance this often, and that a classifier tells apart so well."""
    unlike = p_value < config.level
    return Outcome.HOLD if unlike and area > config.separable else Outcome.WARN if unlike else Outcome.OK


def _pixels(arrivals: Mapping[str, Any] | None, config: DataGateConfig) -> DataCheck:
    if not arrivals or not arrivals["pixels"]:
        return _too_few("pixels", arrivals["compared"] if arrivals else 0)
    p_value, area = arrivals["pixels"]["p_value"], arrivals["separable"] or 0.5
    return DataCheck(
        name="pixels",
        outcome=judge_pixels(p_value, area, config),
        text=f"{arrivals['compared']:,} new images beside others of their label: a classifier tells them apart with an "
        f"area under the curve of {area:.2f} (0.5 is chance), p = {p_value:.2g}",
        figures={"p_value": p_value, "area": area},
    )


def _label_noise(arrivals: Mapping[str, Any] | None, config: DataGateConfig) -> DataCheck:
    if not arrivals or arrivals["doubted"][1] < _FEWEST or not arrivals["doubted_before"][1]:
        return _too_few("label noise", arrivals["doubted"][1] if arrivals else 0)
    doubted, before = tuple(arrivals["doubted"]), tuple(arrivals["doubted_before"])
    low, high = wilson_interval(*doubted)
    # Heads that are often wrong doubt many labels, of any image.
    held = low > config.label_noise and difference_interval(doubted, before)[0] > 0
    return DataCheck(
        name="label noise",
        outcome=Outcome.HOLD if held else Outcome.OK,
        text=f"{doubted[0]:,} of {doubted[1]:,} new images have a label that looks wrong ({low:.0%} to {high:.0%}), of "
        f"the others {before[0] / before[1]:.0%}",
        figures={"doubted": doubted, "doubted_before": before},
    )


def _too_few(name: str, count: int) -> DataCheck:
    text = f"{count} new images that could be compared: too few to tell" if count else "no new images to be compared"
    return DataCheck(name=name, outcome=Outcome.OK, text=text, figures={"new": count})


def _shares(part: Iterable[str], whole: Iterable[str]) -> dict[str, float]:
    """Returns the share of each label that is in the part, the largest first; only labels that are."""
    counts, totals = collections.Counter(part), collections.Counter(whole)
    return {label: count / totals[label] for label, count in counts.most_common()}


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
