"""Compares what a served model was asked with images that it was evaluated on. NumPy only.

The tests, their levels and limits are those of the data gate (`retrain.data.gate`). What is different in service:

- Nobody knows the true labels of the images. Predicted labels are compared with predicted labels: one model made both,
  mistakes and all, so that they differ in distribution only if what it was asked does. Where the images of a label are
  what they were and their shares alone have changed, that is the very test for such a change (Lipton et al. 2018, arXiv
  1802.03916). It says that shares have changed, not how much of the change is a change of mistakes.
- Facts and features are compared within predicted labels, for more photos of one class are no other kind of photos.
  Under the hypothesis that images are of one kind the predicted label is a function of the image, so that permuting
  within it keeps every test at its level, whatever the labels' shares. What is lost: images that went over to another
  predicted label are compared with those that belong there, which makes them more unlike, not less.
- The reference is a sample, too, of some hundred images: a test is about both samples, and its p-value counts both.
- One photo may be sent again and again, by a retry or a monitor. Answers that agree in all facts count once. Photos
  that are merely alike (of one visitor, in one burst) count each, as if they had been sent independently: where a few
  senders make most of the log, p-values are too small, and the limits of the distances are what is left.
- A nightly run tests every night. At a level of 1 % three tests warn in vain eleven times a year at most; the limits of
  the distances spare most of that, and a hold takes both.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import numpy as np

from pipeline.format.answer_log import Answers
from pipeline.format.reference import Reference
from pipeline.shift import (
    in_both,
    kolmogorov_smirnov,
    label_shift,
    maximum_mean_discrepancy,
    sample_positions,
    separability,
)
from retrain.data.gate import DataCheck, Outcome, judge_pixels, shifted_facts
from retrain.limits import DataGateConfig

FEWEST = 30  # different images, below which no test would see even other photos for certain
_FACTS_OF, _FEATURES_OF = 2_000, 1_000  # images of each group, at most, whose facts and whose features are compared
_STRENGTH = 1.0  # of the classifier's l2; a weaker one takes three times as long and tells hardly more apart


def different(answers: Answers) -> np.ndarray:
    """Returns where each different image was asked about first, int [M], sorted.

    Images are the same if all their facts are, or, where no facts were logged, all their probabilities.
    """
    columns = list(answers.facts.values()) or list(answers.probabilities.T)
    if not columns or not len(answers.seconds):
        return np.zeros(0, int)
    return np.sort(np.unique(np.nan_to_num(np.stack(columns, axis=1), nan=-1.0), axis=0, return_index=True)[1])


def compare(reference: Reference, answers: Answers, config: DataGateConfig) -> list[DataCheck]:
    """Judges what a model was asked; of fewer than `FEWEST` different images it says only so.

    Args:
      reference: of the model.
      answers: of the same model.
      config: levels and limits.
    """
    at = different(answers)
    checks = [_count(answers, at)]
    if len(at) >= FEWEST:
        checks += _tests(reference, answers, at, config)
    return checks


def _count(answers: Answers, at: np.ndarray) -> DataCheck:
    total, few = len(answers.seconds), len(at) < FEWEST
    again = f" about {len(at):,} different images" if len(at) < total else ""
    text = f"{total:,} answers{again}"
    if few:
        text += (
            f", too few to tell; {FEWEST} are needed" if not again else f", too few to tell; {FEWEST} images are needed"
        )
    else:
        text += f", from {moment(answers.seconds[0])} to {moment(answers.seconds[-1])}"
    if answers.damaged:
        text += f"; {len(answers.damaged)} damaged parts of the log are left out ({', '.join(answers.damaged[:3])})"
    return DataCheck(
        name="answers",
        outcome=Outcome.WARN if few or answers.damaged else Outcome.OK,
        text=text,
        figures={"answers": total, "images": len(at), "needed": FEWEST, "damaged": answers.damaged},
    )


def moment(seconds: float) -> str:
    """Formats a Unix time to the minute, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _tests(reference: Reference, answers: Answers, at: np.ndarray, config: DataGateConfig) -> Iterator[DataCheck]:
    before, after = reference.probabilities.argmax(axis=1), answers.probabilities[at].argmax(axis=1)
    labels = np.concatenate([before, after])
    new = np.arange(len(labels)) >= len(before)
    yield _label_shift(reference, labels, new, config)
    facts = {
        name: np.concatenate([values, answers.facts[name][at]])
        for name, values in reference.facts.items()
        if name in answers.facts
    }
    yield _facts(facts, labels, new, config)
    yield _pixels(reference.features, answers.features, at, labels, new, config)


def _label_shift(reference: Reference, labels: np.ndarray, new: np.ndarray, config: DataGateConfig) -> DataCheck:
    before, after = (np.bincount(labels[part], minlength=len(reference.labels)) for part in (~new, new))
    found = label_shift(before, after, seed=0)
    shifted = found.p_value < config.level and found.distance > config.label_shift
    shares = before / before.sum(), after / after.sum()
    most = int(np.abs(shares[1] - shares[0]).argmax())
    return DataCheck(
        name="label shift",
        outcome=Outcome.WARN if shifted else Outcome.OK,
        text=f"{shares[1][most]:.0%} of the answers are {reference.labels[most]}, {shares[0][most]:.0%} of those "
        f"of the reference: total variation {found.distance:.2f}, p = {found.p_value:.2g}",
        figures={"total_variation": found.distance, "p_value": found.p_value},
    )


def _facts(columns: dict[str, np.ndarray], labels: np.ndarray, new: np.ndarray, config: DataGateConfig) -> DataCheck:
    known = {name: values for name, values in columns.items() if np.isfinite(values[new]).any()}
    finite = np.isfinite(np.stack(list(known.values()))).all(axis=0) if known else np.zeros(len(new), bool)
    at = _comparable(finite, labels, new, most=_FACTS_OF)
    count = int(new[at].sum())
    if count < FEWEST:
        return _nothing("facts", count, logged=bool(known))
    found = kolmogorov_smirnov({name: values[at] for name, values in known.items()}, labels[at], new[at], seed=0)
    adjusted, shifted = shifted_facts(found, config)
    told = [f"{words(name)} {found[name].distance:.2f} (p = {adjusted[name]:.2g})" for name in shifted]
    return DataCheck(
        name="facts",
        outcome=Outcome.WARN if shifted else Outcome.OK,
        text=f"images differ from those of the reference with the same answer in {', '.join(told)}"
        if shifted
        else f"images are like those of the reference with the same answer in {', '.join(map(words, found))}",
        figures={name: {"distance": one.distance, "p_value": adjusted[name]} for name, one in found.items()},
    )


def _pixels(
    before: np.ndarray | None,
    after: np.ndarray | None,
    at: np.ndarray,
    labels: np.ndarray,
    new: np.ndarray,
    config: DataGateConfig,
) -> DataCheck:
    if before is None or after is None or before.shape[1] != after.shape[1]:
        return _nothing("pixels", 0, logged=False)
    known = np.concatenate([np.isfinite(before).all(axis=1), np.isfinite(after).all(axis=1)[at]])
    chosen = _comparable(known, labels, new, most=_FEATURES_OF)
    labels, new = labels[chosen], new[chosen]
    count = int(new.sum())
    if count < FEWEST:
        return _nothing("pixels", count, logged=True)
    # In float32 only what is compared: a log is large.
    features = np.concatenate([before[chosen[~new]], after[at[chosen[new] - len(before)]]]).astype(np.float32)
    found = maximum_mean_discrepancy(features, labels, new, seed=0)
    area = separability(features, labels, np.arange(len(new)), new, strength=_STRENGTH, seed=0) or 0.5
    return DataCheck(
        name="pixels",
        outcome=judge_pixels(found.p_value, area, config),
        text=f"{count:,} images beside {len(new) - count:,} of the reference with the same answers: a classifier tells "
        f"them apart with an area under the curve of {area:.2f} (0.5 is chance), p = {found.p_value:.2g}",
        figures={"p_value": found.p_value, "area": area, "distance": found.distance},
    )


def _comparable(known: np.ndarray, labels: np.ndarray, new: np.ndarray, *, most: int) -> np.ndarray:
    """Draws images of which enough is known, and whose predicted label occurs in both groups, int [M]."""
    at = np.flatnonzero(known)
    at = at[in_both(labels[at], new[at])]
    return at[sample_positions(new[at], most=most, seed=0)]


def _nothing(name: str, count: int, *, logged: bool) -> DataCheck:
    text = f"{count} images have an answer that the reference has, too: too few to tell; {FEWEST} are needed"
    if not logged:
        text = "not compared: not in the log, or not in the reference"
    return DataCheck(name=name, outcome=Outcome.OK, text=text, figures={"images": count})


def words(fact: str) -> str:
    """Spells the name of a fact for people."""
    return "bytes a pixel" if fact == "bytes_per_pixel" else fact
