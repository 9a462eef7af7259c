"""Judges a finished run in one line, and no further than its images allow; NumPy only.

What is wrong is said first, with the remedy: the loss rose again, a label is never found, the model guesses. Only of a
model without such faults is it worth saying whether it over- or under-fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.intervals import difference_interval, wilson_interval

_NAMED = 3  # labels that are named, of those that are never found
_LEVEL = 0.05
_SHUFFLES = 199
_OVERFITTING_GAP = 0.05
_CANNOT_TELL = 0.1  # half the width of an interval in which both a large gap and none may lie
_FITS = 0.8


def diagnose(
    rows: Sequence[Mapping[str, Any]],
    *,
    kept: Mapping[str, Any],
    confusion: np.ndarray | None,
    labels: Sequence[str],
    class_weights: str = "none",
) -> str:
    """Returns what is to be said of a run, in one line.

    Args:
      rows: of metrics.jsonl, of every epoch.
      kept: `step` and `epoch` of the weights that are kept.
      confusion: int [C, C] of these weights on validation (else test), rows are the true labels; None without either.
      labels: their names.
      class_weights: the recipe's.
    """
    faults = [*_divergence(rows, kept, classes=len(labels))]
    if confusion is not None:
        faults += _blindness(confusion, labels, class_weights)
    if faults:
        return "; ".join(faults)
    at_kept = {row["split"]: row for row in rows if row["step"] == kept["step"]}
    if "validation" not in at_kept:
        return "no validation split: over-fitting cannot be told" + _cross_validated(rows)
    if "train_sample" not in at_kept:
        return "the kept weights are of an epoch without a training sample: over-fitting cannot be told"
    return "; ".join([_fit(at_kept["train_sample"], at_kept["validation"], rows), *_too_sure(rows, at_kept)])


def _cross_validated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Says how good the head alone was on images that it had not seen, where that is known."""
    found = [row for row in rows if row["split"] == "cross_validation"]
    if not found:
        return ""
    row = found[-1]
    low, high = wilson_interval(round(row["accuracy"] * row["examples"]), row["examples"])
    return (
        f"; the head alone, after phase {row['phase']}, had an accuracy of {row['accuracy']:.3f} "
        f"({low:.3f} to {high:.3f}) in cross-validation"
    )


def _divergence(rows: Sequence[Mapping[str, Any]], kept: Mapping[str, Any], *, classes: int) -> Iterator[str]:
    """Says where the training loss, once low, rose towards guessing, or beyond."""
    guessing = math.log(classes)
    # As validation measures it: no noise of augmentation in it, nor of what an epoch began with.
    split = "train_sample" if any(row["split"] == "train_sample" for row in rows) else "train"
    measured = [row for row in rows if row["split"] == split]
    for number, (phase, group) in enumerate(itertools.groupby(measured, key=lambda row: row["phase"])):
        epochs = list(group)
        lowest, last = min(epochs, key=lambda row: row["loss"]), epochs[-1]
        rose = last["loss"] > lowest["loss"] + guessing / 4 and last["loss"] > 1.5 * lowest["loss"]
        if not (rose or last["loss"] > 1.5 * guessing):
            continue
        end = f"{last['loss']:.3g} in epoch {last['epoch']}"
        history = f"from {lowest['loss']:.3g} in epoch {lowest['epoch']} to {end}" if rose else f"to {end}"
        before = " (the kept weights are older)" if kept["step"] < last["step"] and rose else ""
        yield (
            f"training diverged: in phase {phase} the training loss rose {history}, where guessing has "
            f"{guessing:.3g}{before}; take a third of phases.{number}.lr_max, or optimizer.clip_norm=1"
        )


def _blindness(confusion: np.ndarray, labels: Sequence[str], class_weights: str) -> Iterator[str]:
    """Says which labels are never found, and whether the model can be told from one that guesses."""
    totals, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    examples, commonest = int(totals.sum()), int(totals.argmax())
    never = [i for i in np.argsort(-totals, kind="stable") if totals[i] and not confusion[i, i]]
    guesses = _guesses(confusion)
    if guesses:
        model = (
            f"the model calls every image {labels[int(predicted.argmax())]}"
            if np.count_nonzero(predicted) == 1
            else "the model cannot be told from one that guesses"
        )
        accuracy, guessing = confusion.trace() / examples, totals[commonest] / examples
        compared = "equals" if accuracy == guessing else f"against {guessing:.3f} for"
        yield f"{model}: accuracy {accuracy:.3f} on {examples} images {compared} always guessing {labels[commonest]}"
    if never:
        names = ", ".join(f"{labels[i]} (0 of {totals[i]})" for i in never[:_NAMED])
        more = f" and {len(never) - _NAMED} more labels" if len(never) > _NAMED else ""
        yield f"never found: {names}{more}"
    if guesses or never:
        rare = totals.max() > 2 * min(totals[never], default=totals.max())
        if rare and class_weights != "balanced":
            yield "--set=class_weights=balanced lets rare labels weigh as much as common ones; more images of them help"
        elif rare:
            yield "more images of rare labels would help"
        else:
            yield "python -m trainer.fit_check says whether the model can learn these images, and at which rate"


def _guesses(confusion: np.ndarray) -> bool:
    """Says whether answers and true labels could be independent, by a permutation test of balanced accuracy."""
    classes = len(confusion)
    true, answers = (np.repeat(at, confusion.ravel()) for at in np.divmod(np.arange(classes**2), classes))
    weights = (1 / np.maximum(confusion.sum(axis=1), 1))[true]
    observed = weights[true == answers].sum()
    rng = np.random.default_rng(0)
    as_good = sum(weights[true == rng.permutation(answers)].sum() >= observed - 1e-9 for _ in range(_SHUFFLES))
    return (1 + as_good) / (1 + _SHUFFLES) > _LEVEL


def _fit(sample: Mapping[str, Any], validation: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Judges over- and under-fitting of the kept weights, from images that both splits show without augmentation."""
    counts = [(round(row["accuracy"] * row["examples"]), row["examples"]) for row in (sample, validation)]
    low, high = difference_interval(*counts)
    gap = sample["accuracy"] - validation["accuracy"]
    numbers = (
        f"kept weights: accuracy {sample['accuracy']:.3f} on training images, {validation['accuracy']:.3f} on "
        f"validation, gap {100 * gap:.1f} points (95 %: {100 * low:.1f} to {100 * high:.1f})"
    )
    if low > 0 and gap > _OVERFITTING_GAP:
        return f"{numbers}: over-fitting; more photos will help more than more training"
    if wilson_interval(*counts[0])[1] < _FITS:
        losses = [row["loss"] for row in rows if row["split"] == "train_sample"]
        falls = len(losses) > 2 and losses[-1] < 0.95 * losses[-1 - len(losses) // 4 - 1]
        remedy = "the loss still falls, so train longer" if falls else "take a larger backbone, or train more of it"
        return f"{numbers}: under-fitting; {remedy} (python -m trainer.fit_check tells more)"
    if high > _CANNOT_TELL and (high - low) / 2 > _OVERFITTING_GAP:
        return f"{numbers}: over-fitting cannot be told from {validation['examples']} validation images"
    return f"{numbers}: neither over- nor under-fitting"


def _too_sure(rows: Sequence[Mapping[str, Any]], at_kept: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    kept = at_kept["validation"]
    before = [row for row in rows if row["split"] == "validation" and row["step"] <= kept["step"]]
    lowest = min(before, key=lambda row: row["loss"])
    if kept["loss"] > 1.25 * lowest["loss"] + 0.05:
        yield (
            f"validation loss was lowest in epoch {lowest['epoch']}, {lowest['loss']:.3f} against {kept['loss']:.3f}: "
            "the model has become too sure of its mistakes; train shorter, or with label_smoothing=0.1"
        )
