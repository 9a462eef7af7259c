"""Names the models of a quickstart, and finds what is known of them on disk."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator

from pipeline.format.manifest import VALIDATION
from pipeline.predictions import Predictions, predictions_file, read_predictions
from trainer.quickstart.place import Place
from trainer.request import FINISHED

_HEAD, _SHORTER, _STOPPED = "-head", r"-(\d+)ep", r"-after-(\d+)ep"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Names a model: a run on a version of the dataset, or what was made of a run that was stopped.

    Attributes:
      place: where all of them lie.
      version: of the dataset.
      name: RECIPE, RECIPE-head, RECIPE-3ep (a shorter run) or RECIPE-after-3ep (a run that was stopped there).
    """

    place: Place
    version: str
    name: str

    @property
    def folder(self) -> str:
        return self.place.run(self.version, self.name)

    @property
    def export(self) -> str:
        return os.path.join(self.folder, "export")

    @property
    def recipe(self) -> str:
        return self.name.partition("-")[0]

    @property
    def is_head(self) -> bool:
        return self.name.endswith(_HEAD)

    @property
    def is_begun(self) -> bool:
        return os.path.isdir(os.path.join(self.folder, "checkpoints"))

    @property
    def is_whole(self) -> bool:
        """Says whether the run has come to its end."""
        return os.path.exists(os.path.join(self.folder, FINISHED))

    @property
    def words(self) -> str:
        if self.is_head:
            return "a head on the frozen backbone"
        if stopped := re.search(_STOPPED + "$", self.name):
            return f"fine-tuned as far as the time allowed, epoch {stopped[1]}"
        shorter = re.search(_SHORTER + "$", self.name)
        return f"fine-tuned for {shorter[1]} epochs" if shorter else "fine-tuned"

    def answers(self, split: str = VALIDATION) -> Predictions:
        """Reads what it has answered to a split; UsageError where it has not been asked."""
        return read_predictions(self.folder, split)

    def has_answers(self, split: str) -> bool:
        return os.path.exists(predictions_file(self.folder, split))


def head_of(place: Place, version: str, recipe: str) -> Model:
    return Model(place=place, version=version, name=f"{recipe}{_HEAD}")


def tuned(place: Place, version: str, recipe: str, *, epochs: int | None) -> Model:
    """Names the run of so many epochs of fine-tuning; None: of as many as the recipe has."""
    return Model(place=place, version=version, name=recipe if epochs is None else f"{recipe}-{epochs}ep")


def stopped_at(run: Model, epochs: int, recipe: str) -> Model:
    """Names what is made of a run that was stopped after so many epochs."""
    return dataclasses.replace(run, name=f"{recipe}-after-{epochs}ep")


def shorter(place: Place, version: str, recipe: str) -> Iterator[tuple[int, Model]]:
    """Yields the shorter runs on a version, with their epochs, the longest first."""
    yield from _numbered(place, version, recipe, _SHORTER)


def last_stopped(place: Place, version: str, recipe: str) -> Model | None:
    """Returns what was made of the run that had got furthest when it was stopped; None without any."""
    found = (one for _, one in _numbered(place, version, recipe, _STOPPED) if one.has_answers(VALIDATION))
    return next(found, None)


def _numbered(place: Place, version: str, recipe: str, pattern: str) -> Iterator[tuple[int, Model]]:
    runs = os.path.dirname(place.run(version, recipe))
    names = os.listdir(runs) if os.path.isdir(runs) else []
    found = [(int(match[1]), name) for name in names if (match := re.fullmatch(re.escape(recipe) + pattern, name))]
    for epochs, name in sorted(found, reverse=True):
        yield epochs, Model(place=place, version=version, name=name)


def current_model(place: Place) -> Model | None:
    """Returns the model that is taken now; None without any."""
    target = place.linked()
    parts = os.path.relpath(target, place.root).split(os.sep) if target else []
    if len(parts) != 4:  # runs/VERSION/NAME/export
        return None
    return Model(place=place, version=parts[1], name=parts[2])
