"""Picks the images that a run's report shows, and what is told beside each. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record
from pipeline.pages.pictures import data_uri, find_records, pixels_uri
from pipeline.predictions import Predictions
from trainer.report.explanations import Explanations
from trainer.report.scores import OFTEN, Confusion

MISTAKES, UNSURE, PAIRS, IN_A_PAIR, _ALIKE = 24, 12, 6, 6, 3
_HEAT = (208, 68, 28)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """Describes an image and what the model made of it; URIs are data: URIs, None where there is no picture.

    Attributes:
      id: of the record.
      label: the true one.
      predicted: the model's answer.
      probability: of the answer.
      own: probability of the true label.
      second: (label, probability) that come after the answer.
      source: of the record.
      uri: the picture.
      heat: the picture as the model sees it, red where the answer depends on it.
      alike: training images that are most like it: (label, picture).
    """

    id: str
    label: str
    predicted: str
    probability: float
    own: float
    second: tuple[str, float]
    source: str
    uri: str | None
    heat: str | None = None
    alike: Sequence[tuple[str, str]] = ()

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picked:
    """Holds positions of the images that are shown.

    Attributes:
      mistakes: the highest losses first.
      unsure: of the others, the least sure first.
      pairs: confusions that occur often enough, with their surest mistakes.
    """

    mistakes: Sequence[int]
    unsure: Sequence[int]
    pairs: Sequence[tuple[Confusion, Sequence[int]]]


def pick(found: Predictions, confusions: Sequence[Confusion]) -> Picked:
    """Picks the worst mistakes by −log p(truth), the least sure answers, and the most confused pairs; ties in order."""
    known = found.labels >= 0
    own = found.log_probabilities[np.arange(len(known)), np.where(known, found.labels, 0)]
    losses = np.where(known & ~found.correct, -own, -np.inf)
    worst = [int(at) for at in np.argsort(-losses, kind="stable")[:MISTAKES] if np.isfinite(losses[at])]
    shown = set(worst)
    unsure = [int(at) for at in np.argsort(found.confidence, kind="stable") if int(at) not in shown][:UNSURE]
    pairs = []
    for pair in [one for one in confusions if one.count >= OFTEN][:PAIRS]:
        label, predicted = found.names.index(pair.label), found.names.index(pair.predicted)
        of_pair = (found.labels == label) & (found.predicted == predicted)
        surest = sorted(np.flatnonzero(of_pair).tolist(), key=lambda at: -found.confidence[at])
        pairs.append((pair, surest[:IN_A_PAIR]))
    return Picked(mistakes=worst, unsure=unsure, pairs=pairs)


class Shelf:
    """Makes what is shown of images, reading each record once."""

    def __init__(
        self, data: DatasetVersion, found: Predictions, split: str, explained: Explanations | None, picked: Picked
    ) -> None:
        """Reads the records of all images that are picked, and of the training images most like the mistakes."""
        self._names, self._found = data.manifest.labels, found
        self._explained = explained if explained and explained.split == split else None
        positions = {*picked.mistakes, *picked.unsure, *(at for _, several in picked.pairs for at in several)}
        self._records = find_records(data, split, {found.ids[at] for at in positions})
        self._alike: dict[str, list[str]] = {}
        if self._explained:
            for at in picked.mistakes:
                self._alike[found.ids[at]] = self._explained.nearest_training_images(found.ids[at], _ALIKE)
        wanted = {image for several in self._alike.values() for image in several}
        self._training: Mapping[str, Record] = find_records(data, "train", wanted) if wanted else {}

    def show(self, at: int, *, explained: bool = False) -> Shown:
        """Describes the image at a position; `explained`: with where the model looked, and what is like it."""
        found, record = self._found, self._records.get(self._found.ids[at])
        row, label = found.log_probabilities[at], int(found.labels[at])
        order = np.argsort(-row, kind="stable")
        probabilities = np.exp(row.astype(np.float64))
        second = int(order[1]) if len(order) > 1 else int(order[0])
        image = found.ids[at]
        return Shown(
            id=image,
            label=found.names[label] if label >= 0 else "another label",
            predicted=found.names[int(order[0])],
            probability=float(probabilities[order[0]]),
            own=float(probabilities[label]) if label >= 0 else 0.0,
            second=(found.names[second], float(probabilities[second])),
            source=record.source if record else "not in this dataset version",
            uri=data_uri(record.image) if record else None,
            heat=self._heat(image) if explained else None,
            alike=[
                (self._names[one.label], data_uri(one.image))
                for one in map(self._training.get, self._alike.get(image, []))
                if one
            ]
            if explained
            else (),
        )

    def _heat(self, image: str) -> str | None:
        of = self._explained
        if of is None or image not in of.looked_at:
            return None
        at = list(of.looked_at).index(image)
        picture, heat = of.pictures[at], of.heat[at]
        return pixels_uri(heated(picture, heat)) if heat.max() > 0 else None


def heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [H, W, 3], in grey, and the redder the more the answer depends on a part.

    Args:
      picture: uint8 [H, W, 3].
      heat: float [G, G], 0 or more, not all 0.
    """
    height, width = picture.shape[:2]
    coarse = Image.fromarray((heat / heat.max() * 255).astype(np.uint8))
    scaled = coarse.resize((width, height), Image.Resampling.BICUBIC)
    share = 0.75 * np.asarray(scaled, np.float32)[..., np.newaxis] / 255
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"), np.float32)
    return np.round(grey * (1 - share) + np.array(_HEAT, np.float32) * share).astype(np.uint8)
