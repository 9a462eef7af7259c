"""Holds what models answered to the same images, and says on which of them they can be compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.command import DataError
from pipeline.format import storage
from pipeline.predictions import from_bytes

_TINY = 1e-38  # probability; what float32 cannot hold has no logarithm


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


@dataclasses.dataclass(frozen=True)
class Pair:
    """Holds the answers of challenger and rival to an image; `share`: of the challenger's seeds, how many are right."""

    new: Prediction
    old: Prediction
    share: float

    @property
    def difference(self) -> float:
        """Returns the share of seeds that are right, less whether the rival is."""
        return self.share - self.old.right


def read_answers(path: str, truth: Mapping[str, str]) -> list[Prediction]:
    """Reads what `trainer.evaluate --model` wrote.

    Args:
      path: an .npz file.
      truth: id → name of the true label, which the model need not know.

    Raises:
      DataError: it is damaged, empty, or holds images that the dataset does not.
    """
    found = from_bytes(storage.read(path), file=path, again="remove it, and the next pass")
    if not found.ids:
        raise DataError(f"{path}: no predictions; the test split is empty. Add images or enlarge its share")
    if unknown := [image for image in found.ids if image not in truth]:
        raise DataError(f"{path}: the dataset has no image {unknown[0]}; remove the file and run again")
    own = np.exp(found.log_probabilities[np.arange(len(found.ids)), np.maximum(found.labels, 0)])
    return [
        Prediction(image, truth[image], found.names[answer], float(probability) if label >= 0 else 0.0)
        for image, answer, label, probability in zip(found.ids, found.predicted, found.labels, own, strict=True)
    ]


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Returns the share of right answers."""
    return sum(p.right for p in predictions) / len(predictions)


def lost_share(challenger: Sequence[Prediction], rival: Rival) -> float:
    """Returns the share of what a rival answers rightly, and was not taught, that the challenger does not."""
    pairs = zip(challenger, rival.answers, strict=True)
    kept = [new.right for new, old in pairs if old.right and old.id not in rival.trained_on]
    return 1 - sum(kept) / len(kept) if kept else 0.0


def log_loss(answers: Sequence[Prediction]) -> float:
    """Returns the mean of −log p of the true label, nats."""
    return float(np.mean([-math.log(max(answer.own, _TINY)) for answer in answers]))


def _check_same_images(challenger: Sequence[Prediction], other: Sequence[Prediction], name: str) -> None:
    if [(p.id, p.label) for p in challenger] != [(p.id, p.label) for p in other]:
        raise DataError(
            f"the challenger and {name} were not scored on the same test images ({len(challenger)} and "
            f"{len(other)}, or in another order); remove both files of predictions and run again"
        )


def comparable(
    challenger: Sequence[Prediction], rival: Rival, *, siblings: Sequence[Sequence[Prediction]] = ()
) -> tuple[list[Pair], list[str], dict[str, Any]]:
    """Pairs the answers that can be compared; returns also what is left out, in words and figures.

    Only images whose true label the rival knows: counting it wrong on a class that it was never shown would let a
    challenger that knows one class more be worse on all the others. Labels are compared by name, so their order and
    number may differ. Images that the rival was trained on are left out too: a group of near duplicates that grows may
    change its split as a whole, and a rival that knows the answers is no measure.

    Args:
      challenger: its answers.
      rival: what it is compared with.
      siblings: answers of the challenger's other seeds.

    Raises:
      DataError: they were scored on different images.
    """
    _check_same_images(challenger, rival.answers, rival.name)
    for sibling in siblings:
        _check_same_images(challenger, sibling, "another seed's model")
    told, figures = [], {}
    if new_labels := sorted({p.label for p in challenger} - set(rival.labels)):
        of_new = [p for p in challenger if p.label in new_labels]
        figures = {
            "new_labels": new_labels,
            "new_labels_images": len(of_new),
            "new_labels_accuracy": accuracy(of_new),
        }
        told.append(
            f"classes that {rival.name} does not know ({', '.join(new_labels)}) are left out of the comparison: "
            f"accuracy {accuracy(of_new):.4f} on their {len(of_new)} images"
        )
    shares = np.mean([[p.right for p in answers] for answers in (challenger, *siblings)], axis=0)
    every = [Pair(*pair) for pair in zip(challenger, rival.answers, shares.tolist(), strict=True)]
    known = [pair for pair in every if pair.new.label in rival.labels]
    unseen = [pair for pair in known if pair.new.id not in rival.trained_on]
    if len(unseen) < len(known):
        figures["seen_by_champion"] = len(known) - len(unseen)
        told.append(f"{len(known) - len(unseen)} images that {rival.name} was trained on are left out as well")
    return unseen, told, figures
