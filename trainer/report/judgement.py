"""Judges a finished run for the first screen of its report: what is good, what to look at, what to do next."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from pipeline.format import storage
from pipeline.format.rows import dataset_root
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import percent
from pipeline.pages.findings import FEW_VALIDATION, Finding, Level, things
from trainer.report.evaluation import Evaluation
from trainer.report.label_issues import FEW, LABEL_ISSUES, SOUND
from trainer.report.measures import LabelMeasures, Measures
from trainer.report.scores import OFTEN, Confusion

_MISCALIBRATED = 0.05  # expected calibration error
_WELL = "neither over- nor under-fitting"  # how a diagnosis ends that has nothing to say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Gathers what a run is judged by.

    Attributes:
      split: that was measured.
      evaluation: on it.
      majority: share of its commonest label.
      probe: (right, images) of heads on the frozen backbone, cross-validated on training images; None if unknown.
      diagnosis: of the learning curves.
      sizes: split → images.
      confusions: the most frequent first.
      issues: images held out whose labels look wrong.
      held_out: how many images were looked at for those.
      selected: whether the weights were chosen by validation.
    """

    split: str
    evaluation: Evaluation
    majority: float
    probe: tuple[int, int] | None
    diagnosis: str
    sizes: Mapping[str, int]
    confusions: Sequence[Confusion]
    issues: int
    held_out: int
    selected: bool


def headline(judged: Judged, findings: Sequence[Finding]) -> str:
    """Sums the run up in a sentence or two."""
    of = judged.evaluation.measures
    low, high = of.interval
    text = f"{percent(of.accuracy)} of {of.examples:,} {judged.split} images right ({percent(low)} to {percent(high)})."
    looks = [one.short for one in findings if one.level is not Level.GREEN]
    return f"{text} {things(len(looks))} to look at: {'; '.join(looks)}." if looks else text


def judge(judged: Judged) -> list[Finding]:
    """Judges a run, what matters most first."""
    of = judged.evaluation.measures
    return [
        _against_less(judged, of),
        _diagnosed(judged.diagnosis),
        *_splits(judged),
        *_weakest(of),
        *_mistakes(judged),
        *_issues(judged),
        _calibration(of, judged.evaluation.temperature),
        *_slices(judged.evaluation),
    ]


def _against_less(judged: Judged, of: Measures) -> Finding:
    """Compares with what takes no training, or next to none."""
    text = f"always the commonest label would be right for {percent(judged.majority)}"
    if judged.probe:
        right, images = judged.probe
        low, high = wilson_interval(right, images)
        text += (
            f"; a head alone on the backbone as it came, cross-validated on {images:,} training images: "
            f"{percent(right / images)} ({percent(low)} to {percent(high)})"
        )
    if of.interval[0] > judged.majority:
        return Finding(level=Level.GREEN, subject="labels", text=text)
    return Finding(level=Level.RED, subject="labels", text=text, short="it cannot be told from guessing")


def _diagnosed(diagnosis: str) -> Finding:
    if diagnosis.endswith(_WELL):
        return Finding(level=Level.GREEN, subject="curves", text=diagnosis)
    words = {"over-fitting": "over-fitting", "under-fitting": "under-fitting", "diverged": "training diverged"}
    short = next((shown for word, shown in words.items() if word in diagnosis), "the learning curves")
    return Finding(level=Level.AMBER, subject="curves", text=diagnosis, short=short)


def _splits(judged: Judged) -> Iterator[Finding]:
    validation = judged.sizes.get("validation", 0)
    if judged.split == "validation" and judged.selected:
        yield Finding(
            level=Level.AMBER,
            subject="labels",
            text="there is no test split: the weights were chosen on these very images, so the accuracy is a little "
            "too good",
            short="no test split",
        )
    if not validation:
        yield Finding(
            level=Level.AMBER,
            subject="curves",
            text="there is no validation split: epochs and temperature could not be chosen; --splits of the build "
            "makes one",
            short="no validation split",
        )
    elif validation < FEW_VALIDATION:
        low, high = wilson_interval(round(0.9 * validation), validation)
        yield Finding(
            level=Level.AMBER,
            subject="curves",
            text=f"{validation} validation images tell little: an accuracy of 0.9 there means {low:.2f} to {high:.2f}",
            short=f"only {validation} validation images",
        )


def weakest_label(of: Measures) -> LabelMeasures | None:
    """Returns the label of which the smallest share is found; None without any."""
    found = [one for one in of.labels if one.recall is not None]
    return min(found, key=lambda one: (one.recall, -one.examples)) if found else None


def _is_clear(weakest: LabelMeasures, of: Measures) -> bool:
    """Says whether a label is weaker than all together by more than the two intervals allow."""
    return weakest.recall_interval is not None and weakest.recall_interval[1] < of.interval[0]


def _weakest(of: Measures) -> Iterator[Finding]:
    weakest = weakest_label(of)
    if weakest is None or weakest.recall_interval is None or weakest.recall == 1:
        return
    low, high = weakest.recall_interval
    text = (
        f"weakest label: {weakest.label}, {weakest.correct} of {weakest.examples} found ({percent(weakest.recall)}; "
        f"{percent(low, 0)} to {percent(high, 0)})"
    )
    clear = _is_clear(weakest, of)
    short = f"{weakest.label} is found least" if clear else ""
    yield Finding(level=Level.AMBER if clear else Level.GREEN, subject="labels", text=text, short=short)


def _mistakes(judged: Judged) -> Iterator[Finding]:
    if not judged.confusions:
        yield Finding(level=Level.GREEN, subject="mistakes", text=f"no mistake on the {judged.split} images")
        return
    first = judged.confusions[0]
    often = first.count >= OFTEN
    yield Finding(
        level=Level.AMBER if often else Level.GREEN,
        subject="pairs" if often else "mistakes",
        text=f"most frequent mistake: {first.label} taken for {first.predicted}, {first.count} of {first.examples}",
        short=f"{first.label} taken for {first.predicted}" if often else "",
    )


def _issues(judged: Judged) -> Iterator[Finding]:
    if not judged.issues:
        return
    accuracy = judged.evaluation.measures.accuracy
    if accuracy < SOUND:
        yield Finding(
            level=Level.GREEN,
            subject="issues",
            text=f"{judged.issues} labels of {judged.held_out:,} are doubted, but a model that is right {accuracy:.0%} "
            "of the time doubts many that are right",
        )
        return
    few = judged.issues <= FEW * judged.held_out
    what = "label looks" if judged.issues == 1 else "labels look"
    yield Finding(
        level=Level.GREEN if few else Level.AMBER,
        subject="issues",
        text=f"{judged.issues} {what} wrong, of {judged.held_out:,} images that it has not trained on",
        short="" if few else f"{judged.issues} labels that look wrong",
    )


def _calibration(of: Measures, temperature: float) -> Finding:
    text = f"calibration error {percent(of.calibration_error)}"
    if temperature != 1:
        text += f" ({percent(of.uncalibrated_error)} before the temperature, {temperature:.2f})"
    level = Level.AMBER if of.calibration_error > _MISCALIBRATED else Level.GREEN
    return Finding(
        level=level, subject="confidence", text=text, short="" if level is Level.GREEN else "confidence that misleads"
    )


def _slices(evaluation: Evaluation) -> Iterator[Finding]:
    for part in evaluation.slices:
        if part.difference[1] < 0:
            yield Finding(
                level=Level.AMBER,
                subject="labels",
                text=f"the {part.name} of the images fare worse: {percent(part.accuracy)} right, the others "
                f"{percent(part.rest)}",
                short=f"the {part.name} fare worse",
            )


def next_steps(run: str, data: str, judged: Judged | None) -> Iterator[tuple[str, str]]:
    """Lists what a person may do now: (what for, command, or the section of the page)."""
    where = shlex.quote(os.fspath(run))
    yield "Try it on a photo", f"python -m trainer.predict --run={where} PHOTO.jpg"
    of = judged.evaluation.measures if judged else None
    if of and (mistakes := of.examples - round(of.accuracy * of.examples)):
        yield f"Look at the {mistakes:,} mistakes" if mistakes > 1 else "Look at the mistake", "#mistakes"
    if judged and judged.issues and judged.evaluation.measures.accuracy >= SOUND:
        table = shlex.quote(storage.join(run, LABEL_ISSUES))
        yield (
            "Look at the labels that look wrong, strike out the lines that are right after all, and build once more "
            "without them (or with --relabel)",
            f"python -m beam_jobs.build_tfrecords … --output={shlex.quote(dataset_root(data))} --exclude={table}",
        )
    weakest = weakest_label(of) if of else None
    wanted = "See"
    if of and weakest and _is_clear(weakest, of):
        wanted = f"Get more photos of {weakest.label}, which is found least; see"
    yield (
        f"{wanted} what more photos would bring, and what else there is to say of the data",
        f"python -m trainer.check --data={shlex.quote(data)}",
    )
    yield "Compare it with another run, image by image", f"python -m trainer.compare {where} OTHER_RUN"
