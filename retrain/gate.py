"""Judges whether the challenger is good enough, and not worse than the champion on the same test images.

Not worse overall is shown by an exact paired test (`pipeline.noninferiority`). Beside it no single label may be ruined
while the mean rises: a label is, where its recall has fallen by more than a margin and by more than chance (exact
one-sided sign test on its images, Holm over the labels).
"""

from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.command import DataError
from pipeline.noninferiority import PairedCounts, images_for_power, images_needed, lower_limit, p_value
from pipeline.predictions import from_bytes
from pipeline.shift import holm
from retrain.limits import GateConfig

_POWER = 0.8
_TINY = 1e-38  # probability; what float32 cannot hold has no logarithm


class Decision(enum.StrEnum):
    """Says what becomes of a challenger."""

    PROMOTED = "promoted"
    NOT_PROMOTED = "not promoted"  # it is shown to be worse, or not good enough
    INCONCLUSIVE = "inconclusive"  # the images are too few to show that it is not worse


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Holds the answer for one test image: its id, the name of its true label and the name that the model gave.

    `own` is the probability of the true label; 0 where the model does not know it.
    """

    id: str
    label: str
    predicted: str
    own: float = 0.0

    @property
    def right(self) -> bool:
        return self.label == self.predicted


_Pairs = Sequence[tuple[Prediction, Prediction]]  # answers of the challenger and of a rival to the same image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival:
    """Describes a model that the challenger is compared with.

    Attributes:
      name: for people.
      answers: to the same images in the same order.
      labels: names of the classes that it can answer.
      trained_on: ids of the images that it has seen.
    """

    name: str
    answers: Sequence[Prediction]
    labels: Collection[str]
    trained_on: Collection[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Says what the gate decided.

    Attributes:
      decision: what becomes of the challenger.
      reasons: sentences for people, the deciding one last.
      figures: the numbers behind them, for the decision log.
    """

    decision: Decision
    reasons: tuple[str, ...]
    figures: dict[str, Any]

    @property
    def promote(self) -> bool:
        """Says whether the challenger becomes the champion."""
        return self.decision is Decision.PROMOTED


def read_answers(path: pathlib.Path, truth: Mapping[str, str]) -> list[Prediction]:
    """Reads what `trainer.evaluate --model` wrote.

    Args:
      path: an .npz file.
      truth: id → name of the true label, which the model need not know.

    Raises:
      DataError: it is damaged, empty, or holds images that the dataset does not.
    """
    found = from_bytes(path.read_bytes(), file=str(path), again="remove it, and the next pass")
    if not found.ids:
        raise DataError(f"{path}: no predictions; the test split is empty. Add images or enlarge its share")
    if unknown := [image for image in found.ids if image not in truth]:
        raise DataError(f"{path}: the dataset has no image {unknown[0]}; remove the file and run again")
    own = np.exp(found.log_probabilities[np.arange(len(found.ids)), np.maximum(found.labels, 0)])
    return [
        Prediction(image, truth[image], found.names[answer], float(probability) if label >= 0 else 0.0)
        for image, answer, label, probability in zip(found.ids, found.predicted, found.labels, own, strict=True)
    ]


def _accuracy(predictions: Sequence[Prediction]) -> float:
    return sum(p.right for p in predictions) / len(predictions)


def _check_same_images(challenger: Sequence[Prediction], rival: Rival) -> None:
    if [(p.id, p.label) for p in challenger] != [(p.id, p.label) for p in rival.answers]:
        raise DataError(
            f"the challenger and {rival.name} were not scored on the same test images ({len(challenger)} and "
            f"{len(rival.answers)}, or in another order); remove both files of predictions and run again"
        )


def _compare(pairs: _Pairs, rival: str, *, config: GateConfig) -> tuple[Decision, str, dict[str, Any]]:
    """Tests for non-inferiority; returns what that makes of the challenger, why, and the figures."""
    counts = PairedCounts(
        pairs=len(pairs),
        wins=sum(new.right and not old.right for new, old in pairs),
        losses=sum(old.right and not new.right for new, old in pairs),
    )
    p = p_value(counts, difference=-config.margin)
    low = lower_limit(counts, alpha=config.alpha, start=-config.margin)
    high = -lower_limit(counts.swapped(), alpha=config.alpha, start=config.margin)
    level = 100 * (1 - 2 * config.alpha)
    accuracies = [_accuracy(answers) for answers in zip(*pairs, strict=True)]
    text = (
        f"accuracy {accuracies[0]:.4f} against {rival}'s {accuracies[1]:.4f} on the same {counts.pairs} test images "
        f"({counts.wins} only the challenger has right, {counts.losses} only {rival}): difference "
        f"{counts.difference:+.4f}, {level:g} % interval [{low:+.4f}, {high:+.4f}]; "
    )
    if p <= config.alpha:
        decision = Decision.PROMOTED
        text += f"not worse by more than the margin {config.margin:g} (p = {p:.2g})"
    elif high < 0:
        decision = Decision.NOT_PROMOTED
        text += "it is worse"
    else:
        decision = Decision.INCONCLUSIVE
        text += f"it may be worse by more than the margin {config.margin:g} (p = {p:.2g}, above {config.alpha:g})"
        text += _how_many(counts, config)
    figures = {
        **dataclasses.asdict(counts),
        "difference": counts.difference,
        "interval": [low, high],
        "interval_level": 1 - 2 * config.alpha,
        "p_value": p,
        "champion_accuracy": accuracies[1],
    }
    return decision, text, figures


def _how_many(counts: PairedCounts, config: GateConfig) -> str:
    """Says how many images would do."""
    fewest = images_needed(margin=config.margin, alpha=config.alpha)
    if counts.pairs < fewest:
        return f"; a margin this small takes {fewest} test images even for equal answers: enlarge one of the two"
    discordance = (counts.wins + counts.losses) / counts.pairs
    needed = images_for_power(discordance, margin=config.margin, alpha=config.alpha, power=_POWER)
    return (
        f"; where {discordance:.1%} of the answers differ, about {needed:,} test images are needed to show it "
        f"{_POWER:.0%} of the time, if the two are equally good"
    )


def _ruined_labels(pairs: _Pairs, config: GateConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Finds labels whose recall fell by more than the margin and by more than chance: label → p, and all figures."""
    figures, p_values = {}, {}
    for label in sorted({new.label for new, _ in pairs}):
        of_label = [(new.right, old.right) for new, old in pairs if new.label == label]
        if len(of_label) < config.label_images:
            continue
        wins, losses = of_label.count((True, False)), of_label.count((False, True))
        figures[label] = {"images": len(of_label), "wins": wins, "losses": losses}
        p_values[label] = _sign_test(losses, wins + losses)
    adjusted = holm(p_values)
    ruined = {
        label: adjusted[label]
        for label, of in figures.items()
        if (of["losses"] - of["wins"]) / of["images"] > config.label_margin and adjusted[label] <= config.alpha
    }
    return ruined, figures


def _sign_test(losses: int, discordant: int) -> float:
    """Returns the exact one-sided p-value: a fair coin falls so often, or more often, on one side."""
    return sum(math.comb(discordant, k) for k in range(losses, discordant + 1)) / 2**discordant


def _log_loss(answers: Sequence[Prediction]) -> float:
    return float(np.mean([-math.log(max(answer.own, _TINY)) for answer in answers]))


def _comparable(challenger: Sequence[Prediction], rival: Rival) -> tuple[_Pairs, list[str], dict[str, Any]]:
    """Pairs the answers that can be compared; returns also what is left out, in words and figures.

    Only images whose true label the rival knows: counting it wrong on a class that it was never shown would let a
    challenger that knows one class more be worse on all the others. Labels are compared by name, so their order and
    number may differ. Images that the rival was trained on are left out too: a group of near duplicates that grows may
    change its split as a whole, and a rival that knows the answers is no measure.

    Raises:
      DataError: the two were scored on different images.
    """
    _check_same_images(challenger, rival)
    told, figures = [], {}
    if new_labels := sorted({p.label for p in challenger} - set(rival.labels)):
        of_new = [p for p in challenger if p.label in new_labels]
        figures = {
            "new_labels": new_labels,
            "new_labels_images": len(of_new),
            "new_labels_accuracy": _accuracy(of_new),
        }
        told.append(
            f"classes that {rival.name} does not know ({', '.join(new_labels)}) are left out of the comparison: "
            f"accuracy {_accuracy(of_new):.4f} on their {len(of_new)} images"
        )
    known = [pair for pair in zip(challenger, rival.answers, strict=True) if pair[0].label in rival.labels]
    unseen = [pair for pair in known if pair[0].id not in rival.trained_on]
    if len(unseen) < len(known):
        figures["seen_by_champion"] = len(known) - len(unseen)
        told.append(f"{len(known) - len(unseen)} images that {rival.name} was trained on are left out as well")
    return unseen, told, figures


def _of_parts(pairs: _Pairs, parts: Mapping[str, Collection[str]]) -> dict[str, dict[str, float]]:
    """Returns how the two fare on parts of the images, for information."""
    found = {}
    for name, images in parts.items():
        if inside := [pair for pair in pairs if pair[0].id in images]:
            new, old = map(_accuracy, zip(*inside, strict=True))
            found[name] = {"images": len(inside), "challenger": new, "champion": old}
    return found


def _against(
    challenger: Sequence[Prediction], rival: Rival, parts: Mapping[str, Collection[str]], config: GateConfig
) -> tuple[Decision, list[str], dict[str, Any]]:
    """Compares the challenger with one model: overall, and label by label."""
    pairs, told, figures = _comparable(challenger, rival)
    if not pairs:
        told.append(
            f"no test image is left on which {rival.name} could be compared; if a new start is meant, remove the "
            "`champion` link and run again"
        )
        return Decision.NOT_PROMOTED, told, figures
    decision, text, compared = _compare(pairs, rival.name, config=config)
    ruined, of_labels = _ruined_labels(pairs, config)
    losses = [_log_loss(answers) for answers in zip(*pairs, strict=True)]
    told.append(f"log-loss {losses[0]:.4f}, {rival.name}'s {losses[1]:.4f}, for information")
    of_parts = _of_parts(pairs, parts)
    told += [
        f"{name}, {of['images']} images: accuracy {of['challenger']:.4f}, {rival.name}'s {of['champion']:.4f}, for "
        "information"
        for name, of in of_parts.items()
    ]
    figures |= compared | {
        "labels": of_labels,
        "parts": of_parts,
        "log_loss": losses[0],
        "champion_log_loss": losses[1],
    }
    told.append(text)
    if ruined:
        decision = Decision.NOT_PROMOTED
        told += [
            f"label {label} is ruined: of its {of['images']} test images {of['losses']} are lost, {of['wins']} won "
            f"(p = {ruined[label]:.2g})"
            for label, of in of_labels.items()
            if label in ruined
        ]
    return decision, told, figures


def judge(
    challenger: Sequence[Prediction],
    labels: Collection[str],
    champion: Rival | None,
    *,
    anchor: Rival | None = None,
    removed_labels: Collection[str] = (),
    parts: Mapping[str, Collection[str]] | None = None,
    config: GateConfig,
) -> Verdict:
    """Decides whether a challenger is promoted.

    Args:
      challenger: its answers on the whole test split.
      labels: names of the classes that it can answer.
      champion: the model to be replaced; None without one.
      anchor: an earlier model, from which the champions may not drift away step by step; None without one.
      removed_labels: that may be lost.
      parts: name of a part of the images → their ids; told, and not judged.
      config: margins, floor and level.

    Raises:
      DataError: two were scored on different images.
    """
    accuracy = _accuracy(challenger)
    figures: dict[str, Any] = {"test_images": len(challenger), "accuracy": accuracy}
    floor = f"test accuracy {accuracy:.4f} on {len(challenger)} images"
    if accuracy < config.minimum_accuracy:
        reason = f"{floor} is below minimum_accuracy {config.minimum_accuracy:g}"
        return Verdict(decision=Decision.NOT_PROMOTED, reasons=(reason,), figures=figures)
    reasons = [f"{floor} reaches minimum_accuracy {config.minimum_accuracy:g}"]
    if champion is None:
        reasons += [*_too_few_for_the_next(len(challenger), config)]
        reasons.append("first model: there is no champion to compare with, so the floor alone decides")
        return Verdict(decision=Decision.PROMOTED, reasons=tuple(reasons), figures=figures)
    decision, told, compared = _against(challenger, champion, parts or {}, config)
    reasons += told
    figures |= compared
    if anchor is not None:
        of_anchor, told, compared = _against(challenger, anchor, {}, config)
        reasons += told
        figures["anchor"] = compared
        decision = _graver(decision, of_anchor)
    if lost := sorted(set(champion.labels) - set(labels) - set(removed_labels)):
        decision = Decision.NOT_PROMOTED
        reasons.append(
            f"it cannot answer {', '.join(lost)}, which the champion can; if that is meant, "
            f"data_gate.removed_labels: [{', '.join(lost)}]"
        )
    return Verdict(decision=decision, reasons=tuple(reasons), figures=figures)


def _graver(one: Decision, other: Decision) -> Decision:
    order = (Decision.NOT_PROMOTED, Decision.INCONCLUSIVE, Decision.PROMOTED)
    return min(one, other, key=order.index)


def _too_few_for_the_next(images: int, config: GateConfig) -> Iterator[str]:
    """Warns where no later challenger could ever be shown to be no worse."""
    needed = images_needed(margin=config.margin, alpha=config.alpha)
    if images < needed:
        yield (
            f"to be warned: with {images} test images and the margin {config.margin:g} no later model can be shown to "
            f"be no worse; that takes {needed} test images, or a wider margin"
        )
