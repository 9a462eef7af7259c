"""Judges whether the challenger is good enough, and not worse than the champion on the same test images.

Not worse overall is shown by an exact paired test (`pipeline.noninferiority`). Beside it no single label may be ruined
while the mean rises: a label is, where its recall has fallen by more than a margin and by more than chance (exact
one-sided sign test on its images, Holm over the labels).
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import averaged
from pipeline.noninferiority import PairedCounts, images_for_power, images_needed, lower_limit, p_value
from pipeline.shift import holm
from retrain.answers import Pair, Prediction, Rival, accuracy, comparable, log_loss
from retrain.handover import Handover
from retrain.limits import GateConfig

_POWER = 0.8


class Decision(enum.StrEnum):
    """Says what becomes of a challenger."""

    PROMOTED = "promoted"
    NOT_PROMOTED = "not promoted"  # it is shown to be worse, or not good enough
    INCONCLUSIVE = "inconclusive"  # the images are too few to show that it is not worse


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Difference:
    """Holds the difference of accuracy, challenger minus rival: its estimate, p-value and interval."""

    estimate: float
    p: float
    low: float
    high: float


def _exact(counts: PairedCounts, config: GateConfig) -> _Difference:
    return _Difference(
        estimate=counts.difference,
        p=p_value(counts, difference=-config.margin),
        low=lower_limit(counts, alpha=config.alpha, start=-config.margin),
        high=-lower_limit(counts.swapped(), alpha=config.alpha, start=config.margin),
    )


def _over_seeds(differences: np.ndarray, seeds: int, config: GateConfig) -> _Difference:
    return _Difference(
        estimate=float(differences.mean()),
        p=averaged.p_value(differences, seeds=seeds, difference=-config.margin),
        low=averaged.lower_limit(differences, seeds=seeds, alpha=config.alpha),
        high=averaged.upper_limit(differences, seeds=seeds, alpha=config.alpha),
    )


def _compare(
    pairs: Sequence[Pair], rival: str, *, seeds: int, config: GateConfig
) -> tuple[Decision, str, dict[str, Any]]:
    """Tests for non-inferiority; returns what that makes of the challenger, why, and the figures."""
    counts = PairedCounts(
        pairs=len(pairs),
        wins=sum(pair.new.right and not pair.old.right for pair in pairs),
        losses=sum(pair.old.right and not pair.new.right for pair in pairs),
    )
    differences = np.array([pair.difference for pair in pairs])
    found = _exact(counts, config) if seeds == 1 else _over_seeds(differences, seeds, config)
    level = 100 * (1 - 2 * config.alpha)
    new, old = accuracy([pair.new for pair in pairs]), accuracy([pair.old for pair in pairs])
    over = f"difference over {seeds} seeds" if seeds > 1 else "difference"
    text = (
        f"accuracy {new:.4f} against {rival}'s {old:.4f} on the same {counts.pairs} {config.evidence} images "
        f"({counts.wins} only the challenger has right, {counts.losses} only {rival}): {over} "
        f"{found.estimate:+.4f}, {level:g} % interval [{found.low:+.4f}, {found.high:+.4f}]; "
    )
    if found.p <= config.alpha:
        decision = Decision.PROMOTED
        text += f"not worse by more than the margin {config.margin:g} (p = {found.p:.2g})"
    elif found.high < 0:
        decision = Decision.NOT_PROMOTED
        text += "it is worse"
    else:
        decision = Decision.INCONCLUSIVE
        text += f"it may be worse by more than the margin {config.margin:g} (p = {found.p:.2g}, above {config.alpha:g})"
        text += _how_many(differences, config)
    figures = {
        **dataclasses.asdict(counts),
        "seeds": seeds,
        "difference": found.estimate,
        "interval": [found.low, found.high],
        "interval_level": 1 - 2 * config.alpha,
        "p_value": found.p,
        "champion_accuracy": old,
    }
    return decision, text, figures


def _how_many(differences: np.ndarray, config: GateConfig) -> str:
    """Says how many images would do."""
    fewest = images_needed(margin=config.margin, alpha=config.alpha)
    if len(differences) < fewest:
        return f"; a margin this small takes {fewest} test images even for equal answers: enlarge one of the two"
    discordance = float(np.mean(differences**2))  # of one seed: the share of images that only one has right
    needed = images_for_power(discordance, margin=config.margin, alpha=config.alpha, power=_POWER)
    return (
        f"; where {discordance:.1%} of the answers differ, about {needed:,} test images are needed to show it "
        f"{_POWER:.0%} of the time, if the two are equally good"
    )


def _ruined_labels(pairs: Sequence[Pair], config: GateConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Finds labels whose recall fell by more than the margin and by more than chance: label → p, and all figures."""
    figures, p_values = {}, {}
    for label in sorted({pair.new.label for pair in pairs}):
        of_label = [(pair.new.right, pair.old.right) for pair in pairs if pair.new.label == label]
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


def _of_parts(pairs: Sequence[Pair], parts: Mapping[str, Collection[str]]) -> dict[str, dict[str, float]]:
    """Returns how the two fare on parts of the images, for information."""
    found = {}
    for name, images in parts.items():
        if inside := [pair for pair in pairs if pair.new.id in images]:
            new, old = accuracy([pair.new for pair in inside]), accuracy([pair.old for pair in inside])
            found[name] = {"images": len(inside), "challenger": new, "champion": old}
    return found


def _against(
    challenger: Sequence[Prediction],
    rival: Rival,
    *,
    siblings: Sequence[Sequence[Prediction]],
    parts: Mapping[str, Collection[str]],
    config: GateConfig,
) -> tuple[Decision, list[str], dict[str, Any]]:
    """Compares the challenger with one model: overall, and label by label."""
    pairs, told, figures = comparable(challenger, rival, siblings=siblings)
    if not pairs:
        told.append(
            f"no test image is left on which {rival.name} could be compared; if a new start is meant, remove the "
            "`champion` link and run again"
        )
        return Decision.NOT_PROMOTED, told, figures
    decision, text, compared = _compare(pairs, rival.name, seeds=1 + len(siblings), config=config)
    ruined, of_labels = _ruined_labels(pairs, config)
    losses = [log_loss([pair.new for pair in pairs]), log_loss([pair.old for pair in pairs])]
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
    siblings: Sequence[Sequence[Prediction]] = (),
    handover: Handover | None = None,
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
      siblings: answers of models of other seeds, with which the challenger's are averaged.
      handover: whether it can serve; None where nobody has looked.
      removed_labels: that may be lost.
      parts: name of a part of the images → their ids; told, and not judged.
      config: margins, floor and level.

    Raises:
      DataError: two were scored on different images.
    """
    reached = accuracy(challenger)
    figures: dict[str, Any] = {"test_images": len(challenger), "accuracy": reached}
    floor = f"{config.evidence} accuracy {reached:.4f} on {len(challenger)} images"
    if reached < config.minimum_accuracy:
        reason = f"{floor} is below minimum_accuracy {config.minimum_accuracy:g}"
        return Verdict(decision=Decision.NOT_PROMOTED, reasons=(reason,), figures=figures)
    reasons = [f"{floor} reaches minimum_accuracy {config.minimum_accuracy:g}"]
    if handover:
        figures["handover"] = handover.figures
        reasons += handover.told
    if champion is None:
        reasons += [*_too_few_for_the_next(len(challenger), config)]
        reasons.append("first model: there is no champion to compare with, so the floor alone decides")
        return _handed_over(Decision.PROMOTED, reasons, figures, handover)
    decision, told, compared = _against(challenger, champion, siblings=siblings, parts=parts or {}, config=config)
    reasons += told
    figures |= compared
    if anchor is not None:
        of_anchor, told, compared = _against(challenger, anchor, siblings=siblings, parts={}, config=config)
        reasons += told
        figures["anchor"] = compared
        decision = _graver(decision, of_anchor)
    if lost := sorted(set(champion.labels) - set(labels) - set(removed_labels)):
        decision = Decision.NOT_PROMOTED
        reasons.append(
            f"it cannot answer {', '.join(lost)}, which the champion can; if that is meant, "
            f"data_gate.removed_labels: [{', '.join(lost)}]"
        )
    return _handed_over(decision, reasons, figures, handover)


def _handed_over(
    decision: Decision, reasons: Sequence[str], figures: dict[str, Any], handover: Handover | None
) -> Verdict:
    """Returns the verdict on a challenger that is as good; one that cannot serve is refused all the same."""
    if handover and handover.refused:
        decision, reasons = Decision.NOT_PROMOTED, [*reasons, *handover.refused]
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
