"""Judges whether the challenger is good enough, and not worse than the champion on the same test images."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.command import DataError
from pipeline.noninferiority import PairedCounts, images_needed, lower_limit, p_value
from retrain.limits import GateConfig


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Holds the answer for one test image: its id, the name of its true label and the name that the model gave."""

    id: str
    label: str
    predicted: str

    @property
    def right(self) -> bool:
        return self.label == self.predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Says what the gate decided.

    Attributes:
      promote: whether the challenger becomes the champion.
      reasons: sentences for people, the deciding one last.
      figures: the numbers behind them, for the decision log.
    """

    promote: bool
    reasons: tuple[str, ...]
    figures: dict[str, Any]


def read_predictions(path: pathlib.Path) -> list[Prediction]:
    """Reads what `trainer.evaluate` wrote: JSON lines with id, label and predicted; DataError if damaged or empty."""
    predictions = []
    with path.open(
        encoding="utf-8", newline="\n"
    ) as file:  # a label may hold what str.splitlines takes for a line's end
        for number, line in enumerate(file, start=1):
            try:
                values = json.loads(line)
                predictions.append(Prediction(values["id"], values["label"], values["predicted"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a prediction ({error!r})") from error
    if not predictions:
        raise DataError(f"{path}: no predictions; the test split is empty. Add images or enlarge its share")
    return predictions


def _accuracy(predictions: Sequence[Prediction]) -> float:
    return sum(p.right for p in predictions) / len(predictions)


def _check_same_images(challenger: Sequence[Prediction], champion: Sequence[Prediction]) -> None:
    if [(p.id, p.label) for p in challenger] != [(p.id, p.label) for p in champion]:
        raise DataError(
            f"challenger and champion were not scored on the same test images ({len(challenger)} and {len(champion)}, "
            "or in another order); remove both files of predictions and run again"
        )


def _compare(
    challenger: Sequence[Prediction], champion: Sequence[Prediction], *, config: GateConfig
) -> tuple[bool, str, dict[str, Any]]:
    """Tests for non-inferiority on the pairs of answers given; returns whether it is shown, the reason, the figures."""
    pairs = list(zip(challenger, champion, strict=True))
    counts = PairedCounts(
        pairs=len(pairs),
        wins=sum(new.right and not old.right for new, old in pairs),
        losses=sum(old.right and not new.right for new, old in pairs),
    )
    p = p_value(counts, difference=-config.margin)
    low = lower_limit(counts, alpha=config.alpha, start=-config.margin)
    high = -lower_limit(counts.swapped(), alpha=config.alpha, start=config.margin)
    level = 100 * (1 - 2 * config.alpha)
    passed = p <= config.alpha
    text = (
        f"accuracy {_accuracy(challenger):.4f} against the champion's {_accuracy(champion):.4f} on the same "
        f"{counts.pairs} test images ({counts.wins} only the challenger has right, {counts.losses} only the champion): "
        f"difference {counts.difference:+.4f}, {level:g} % interval [{low:+.4f}, {high:+.4f}]; "
        + (
            f"not worse by more than the margin {config.margin:g} (p = {p:.2g})"
            if passed
            else f"it may be worse by more than the margin {config.margin:g} (p = {p:.2g}, above {config.alpha:g})"
        )
    )
    needed = images_needed(margin=config.margin, alpha=config.alpha)
    if not passed and counts.pairs < needed:
        text += f"; a margin this small takes {needed} test images even for equal answers: enlarge one of the two"
    figures = {
        **dataclasses.asdict(counts),
        "difference": counts.difference,
        "interval": [low, high],
        "interval_level": 1 - 2 * config.alpha,
        "p_value": p,
        "champion_accuracy": _accuracy(champion),
    }
    return passed, text, figures


def judge(
    challenger: Sequence[Prediction],
    champion: Sequence[Prediction] | None,
    *,
    champion_labels: Collection[str],
    champion_trained_on: Collection[str],
    config: GateConfig,
) -> Verdict:
    """Decides whether a challenger is promoted.

    The comparison is over the images whose true label the champion knows: counting it wrong on a class that it was
    never shown would let a challenger that knows one class more be worse on all the others. Labels are compared by
    name, so their order and number may differ. Images that the champion was trained on are left out too: a group of
    near duplicates that grows may change its split as a whole, and a champion that knows the answers is no measure.

    Args:
      challenger: its answers on the whole test split.
      champion: the champion's answers on the same images in the same order; None without a champion.
      champion_labels: names of the classes that the champion can answer.
      champion_trained_on: ids of the images that the champion has seen.
      config: margin, floor and level.

    Raises:
      DataError: the two were scored on different images.
    """
    accuracy = _accuracy(challenger)
    figures: dict[str, Any] = {"test_images": len(challenger), "accuracy": accuracy}
    floor = f"test accuracy {accuracy:.4f} on {len(challenger)} images"
    if accuracy < config.minimum_accuracy:
        reason = f"{floor} is below minimum_accuracy {config.minimum_accuracy:g}"
        return Verdict(promote=False, reasons=(reason,), figures=figures)
    reasons = [f"{floor} reaches minimum_accuracy {config.minimum_accuracy:g}"]
    if champion is None:
        reasons.append("first model: there is no champion to compare with, so the floor alone decides")
        return Verdict(promote=True, reasons=tuple(reasons), figures=figures)

    _check_same_images(challenger, champion)
    new_labels = sorted({p.label for p in challenger} - set(champion_labels))
    if new_labels:
        of_new = [p for p in challenger if p.label in new_labels]
        figures |= {
            "new_labels": new_labels,
            "new_labels_images": len(of_new),
            "new_labels_accuracy": _accuracy(of_new),
        }
        reasons.append(
            f"classes that the champion does not know ({', '.join(new_labels)}) are left out of the comparison: "
            f"accuracy {_accuracy(of_new):.4f} on their {len(of_new)} images"
        )
    known = [number for number, p in enumerate(challenger) if p.label in champion_labels]
    unseen = [number for number in known if challenger[number].id not in champion_trained_on]
    if len(unseen) < len(known):
        figures["seen_by_champion"] = len(known) - len(unseen)
        reasons.append(f"{len(known) - len(unseen)} images that the champion was trained on are left out as well")
    if not unseen:
        reasons.append(
            "no test image is left on which the champion could be compared; if a new start is meant, remove the "
            "`champion` link and run again"
        )
        return Verdict(promote=False, reasons=tuple(reasons), figures=figures)
    promote, text, compared = _compare([challenger[i] for i in unseen], [champion[i] for i in unseen], config=config)
    return Verdict(promote=promote, reasons=(*reasons, text), figures=figures | compared)
