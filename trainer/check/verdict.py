"""Judges a dataset by what was measured: one line a subject, green, amber or red, and one verdict over all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.intervals import difference_interval, wilson_interval
from pipeline.pages.findings import FEW_VALIDATION, Finding, Level, things
from trainer.check.arrivals import Arrivals
from trainer.check.learning_curve import LearningCurve
from trainer.check.shortcuts import Shortcut
from trainer.report.label_issues import FEW, SOUND

_MUCH_NOISE = 0.2  # of the labels
_SURE_GAIN = 0.01  # of accuracy
_MUCH_OF_SKILL = (0.5, 0.8)  # of what pictures tell beyond chance, told without them
_UNEVEN = 10  # times as many images of one label as of another
_RARE = 20  # training images of a label
_MUCH_LOST = 0.2  # of the images of the version before
_SURELY = 0.01  # as rarely, or more rarely, added images are unlike the others by chance
_WORSE_LABELS = 0.1  # of added images


def verdict_of(findings: Sequence[Finding]) -> str:
    """Sums findings up in one line."""
    stops = [one.short for one in findings if one.level is Level.RED]
    looks = [one.short for one in findings if one.level is Level.AMBER]
    if stops:
        more = f"; and to look at: {'; '.join(looks)}" if looks else ""
        return f"Not ready to train. {things(len(stops))} first: {'; '.join(stops)}{more}."
    if looks:
        return f"Ready to train. {things(len(looks))} to look at: {'; '.join(looks)}."
    return "Ready to train."


def too_few() -> Finding:
    """Says that no head could be asked about an image that it had not seen."""
    return Finding(
        level=Level.RED,
        subject="ceiling",
        text="every label has a single image, so nothing can be said of images not seen",
        short="more images of every label",
    )


def judge_labels(issues: int, *, noise: float, images: int, accuracy: float) -> Finding:
    """Judges how many labels look wrong.

    Args:
      issues: how many do.
      noise: estimated share of wrong labels.
      images: how many were asked about.
      accuracy: of the heads that were asked.
    """
    if issues and accuracy < SOUND:
        text = (
            f"{issues:,} of {images:,} labels are doubted, but by heads that are right {accuracy:.0%} of the time: "
            "most doubts will be their own mistakes"
        )
        return Finding(level=Level.GREEN, subject="labels", text=text)
    if issues <= FEW * images:
        what = f"{_count(issues, 'label looks', 'labels look')} wrong, of {images:,}"
        text = what if issues else f"none of {images:,} labels looks wrong"
        return Finding(level=Level.GREEN, subject="labels", text=text)
    text = f"{issues:,} of {images:,} labels look wrong"
    much = noise > _MUCH_NOISE
    return Finding(
        level=Level.RED if much else Level.AMBER,
        subject="labels",
        text=f"{text}: every {round(1 / noise)}th label or so" if much else text,
        short=f"{_count(issues, 'label that looks', 'labels that look')} wrong",
    )


def judge_ceiling(correct: int, *, images: int, commonest: float) -> Finding:
    """Judges what a linear probe on the frozen backbone knows; `commonest`: share of the commonest label."""
    low, high = wilson_interval(correct, images)
    text = (
        f"a linear probe on the frozen backbone gets {correct / images:.3f} right ({low:.3f} to {high:.3f}) of "
        f"{images:,} images that it has not seen; always the commonest label would get {commonest:.3f}"
    )
    if low > commonest:
        return Finding(level=Level.GREEN, subject="ceiling", text=text)
    return Finding(
        level=Level.RED, subject="ceiling", text=text, short="what the pictures show does not tell the labels apart"
    )


def judge_curve(curve: LearningCurve, *, more: int, beside: int = 0) -> Finding:
    """Judges whether so many more photos would help; `beside`: how many there are, if the curve is of fewer."""
    gain, low, high = curve.gain(more, beside=beside)
    text = (
        f"{more:,} more photos: about {100 * gain:+.1f} points of the probe's accuracy "
        f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    )
    if beside > curve.counts[-1]:
        text += f", if what holds up to {round(curve.counts[-1]):,} photos holds for {beside:,}"
    if low < _SURE_GAIN:
        return Finding(level=Level.GREEN, subject="more", text=text)
    return Finding(level=Level.AMBER, subject="more", text=text, short="more photos would surely help")


def judge_shortcuts(found: Sequence[Shortcut], *, probe: float, classes: int) -> Finding:
    """Judges what is known without the pictures; `probe`: balanced accuracy of the probe that sees them."""
    if not found:
        return Finding(
            level=Level.GREEN, subject="shortcuts", text="size, brightness and the like are the same for all images"
        )
    chance, best = 1 / classes, found[0]
    text = (
        f"{_listed(best.facts)} alone tell {best.accuracy:.3f} of the labels right (balanced; chance {chance:.3f}, the "
        f"pictures {probe:.3f})"
    )
    if len(found) > 1 and len(best.facts) > 1:
        text += f", most of all {found[1].facts[0]} ({found[1].accuracy:.3f})"
    share = max(0.0, best.accuracy - chance) / max(probe - chance, 1e-9)
    level = Level.RED if share > _MUCH_OF_SKILL[1] else Level.AMBER if share > _MUCH_OF_SKILL[0] else Level.GREEN
    short = f"{found[-1 if len(found) == 1 else 1].facts[0]} gives the labels away"
    return Finding(level=level, subject="shortcuts", text=text, short="" if level is Level.GREEN else short)


def judge_alike(groups: int) -> Finding:
    """Judges how many groups of look-alikes have several labels."""
    if not groups:
        return Finding(level=Level.GREEN, subject="alike", text="no images that look alike have different labels")
    what = _count(groups, "group of look-alikes has", "groups of look-alikes have")
    return Finding(
        level=Level.AMBER,
        subject="alike",
        text=f"{what} different labels",
        short=f"{_count(groups, 'group', 'groups')} of look-alikes under different labels",
    )


def judge_outliers(count: int, *, images: int) -> Finding:
    """Judges how many images are unlike all others."""
    if not count:
        return Finding(level=Level.GREEN, subject="outliers", text=f"none of {images:,} images is unlike all others")
    text = f"{_count(count, 'image is', 'images are')} unlike all others, of {images:,}"
    return Finding(level=Level.AMBER, subject="outliers", text=text, short=f"{_count(count, 'outlier', 'outliers')}")


def judge_balance(counts: Mapping[str, Sequence[int]], labels: Sequence[str]) -> Finding:
    """Judges how many images each label has; `counts`: split → images of each label."""
    train = counts.get("train", [0] * len(labels))
    most, least = max(train), min(train)
    rarest = labels[train.index(least)]
    text = f"{least:,} to {most:,} training images a label" if least < most else f"{most:,} training images a label"
    if most > _UNEVEN * max(least, 1):
        return Finding(
            level=Level.AMBER,
            subject="balance",
            text=f"{text}, the fewest of {rarest}; --set=class_weights=balanced lets rare labels weigh as much",
            short=f"{rarest} has few images",
        )
    if least < _RARE:
        return Finding(
            level=Level.AMBER, subject="balance", text=f"{text}, the fewest of {rarest}", short="few images a label"
        )
    return Finding(level=Level.GREEN, subject="balance", text=text)


def judge_splits(counts: Mapping[str, Sequence[int]], labels: Sequence[str]) -> Finding:
    """Judges whether training can be judged: is there validation, is there a test, and of all labels."""
    sizes = {split: sum(of) for split, of in counts.items()}
    text = ", ".join(f"{split} {size:,}" for split, size in sizes.items()) + " images"
    missing = [split for split in ("validation", "test") if not sizes.get(split)]
    if missing:
        return Finding(
            level=Level.AMBER,
            subject="balance",
            text=f"{text}; without {' and '.join(missing)}: --splits of the build makes them",
            short=f"no {' and no '.join(missing)} split",
        )
    without = [
        f"{label} in {split}"
        for split in ("validation", "test")
        for label, count in zip(labels, counts[split], strict=True)
        if not count
    ]
    if without:
        first = f"{without[0]}{f' and {len(without) - 1} more' if len(without) > 1 else ''}"
        return Finding(
            level=Level.AMBER, subject="balance", text=f"{text}; no image of {first}", short=f"no image of {first}"
        )
    if sizes["validation"] < FEW_VALIDATION:
        low, high = wilson_interval(round(0.9 * sizes["validation"]), sizes["validation"])
        return Finding(
            level=Level.AMBER,
            subject="balance",
            text=f"{text}; on so few of validation an accuracy of 0.9 means anything from {low:.2f} to {high:.2f}",
            short=f"only {sizes['validation']} validation images",
        )
    return Finding(level=Level.GREEN, subject="balance", text=text)


def judge_changes(changes: Mapping[str, int], *, before: str, images: int) -> Finding:
    """Judges what became of a version's images since; `changes`: added, removed, relabelled, moved → how many."""
    told = ", ".join(f"{count:,} {what}" for what, count in changes.items() if count)
    text = f"since version {before}: {told or 'no image has changed'}"
    if changes["removed"] > _MUCH_LOST * images:
        return Finding(
            level=Level.AMBER, subject="changes", text=text, short=f"{changes['removed']:,} images of {before} are gone"
        )
    if changes["relabelled"] or changes["moved"]:
        what = "relabelled" if changes["relabelled"] else "moved"
        return Finding(
            level=Level.AMBER, subject="changes", text=text, short=f"{changes[what]:,} images {what} since {before}"
        )
    return Finding(level=Level.GREEN, subject="changes", text=text)


def judge_arrivals(found: Arrivals) -> Iterator[Finding]:
    """Judges whether images that were added are like the others of their label, and labelled as carefully."""
    if found.pixels is not None and found.separable is not None:
        text = (
            f"{found.compared:,} added images beside others of their label: a classifier tells them apart with an area "
            f"under the curve of {found.separable:.2f} (0.5 is chance); by chance alone p = {found.pixels.p_value:.3f}"
        )
        unlike = found.pixels.p_value < _SURELY
        short = "added images are unlike the others" if unlike else ""
        yield Finding(level=Level.AMBER if unlike else Level.GREEN, subject="changes", text=text, short=short)
    if found.doubted[1] and found.doubted_before[1]:
        low, _ = wilson_interval(*found.doubted)
        share = found.doubted_before[0] / found.doubted_before[1]
        text = (
            f"{found.doubted[0]:,} of {found.doubted[1]:,} added images have a label that looks wrong; of the others "
            f"{share:.1%}"
        )
        worse = low > _WORSE_LABELS and difference_interval(found.doubted, found.doubted_before)[0] > 0
        short = "added images have wrong labels" if worse else ""
        yield Finding(level=Level.AMBER if worse else Level.GREEN, subject="changes", text=text, short=short)


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
