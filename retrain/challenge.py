"""Makes a challenger: trains it, asks it and its rivals about the same images, and has the gate judge."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import TEST, VALIDATION, DatasetVersion
from pipeline.format.rows import KnownImages, known_images
from pipeline.slices import parts_of
from retrain import gate, registry
from retrain.answers import Prediction, Rival, lost_share, read_answers
from retrain.data.page import folder_beside
from retrain.handover import Handover, judge_handover
from retrain.identity import run_name
from retrain.index import COMPARISON
from retrain.registry import Model
from retrain.steps import Steps

EXPORT_DIR = "export"
HANDOVER_FILE = "gate-handover"
_CHALLENGER = "challenger"
_GOLDEN = "golden"  # folder of an export
_NOT_ASKED = (
    "its export has no golden images that its forms could be asked about: it answers nothing rightly, or was exported "
    "by an earlier version; python -m trainer.export --run={run}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Challenge:
    """Describes what a pass trains, and against whom.

    Attributes:
      steps: of the pass.
      data: the dataset.
      champion: to be replaced; None without one.
      start: the model that training starts from; None: cold.
    """

    steps: Steps
    data: DatasetVersion
    champion: Model | None
    start: Model | None

    @functools.cached_property
    def runs(self) -> list[str]:
        """Lists the runs' folders, one a seed."""
        config = self.steps.config
        shape = {"model": self.start.number, "share": config.init_share} if self.start else None
        names = [
            run_name(config, self.data.manifest, seed=config.seed + number, start=shape)
            for number in range(config.seeds)
        ]
        return [storage.join(config.runs, name) for name in names]

    def train(self) -> None:
        """Trains one model a seed."""
        for number, run in enumerate(self.runs):
            self.steps.train(run, seed=self.steps.config.seed + number, start=self.start.path if self.start else None)

    @functools.cached_property
    def known(self) -> KnownImages:
        """Returns what is known of the dataset's images."""
        return known_images(self.data)

    @functools.cached_property
    def inherited(self) -> frozenset[str]:
        """Lists the ids of the images that the model has seen that training starts from."""
        return self.start.trained_on() if self.start else frozenset()

    @property
    def pages(self) -> str:
        """Returns the folder of the pages about the pass."""
        return folder_beside(self.runs[0])

    @functools.cached_property
    def published(self) -> str:
        """Returns the run whose model is published: the best on validation images, if these are not evidence, too."""
        losses = [_validation_loss(run) for run in self.runs]
        if self.steps.config.gate.pools or None in losses:
            return self.runs[0]
        return self.runs[int(np.argmin(np.array(losses, float)))]

    def judge(self) -> gate.Verdict:
        """Has the gate judge the challenger."""
        config, run, champion = self.steps.config, self.published, self.champion
        known = self.known
        truth = dict(zip(known.ids, known.labels, strict=True))
        tested = np.isin(np.array(known.splits), self._splits())
        parts = parts_of({name: values[tested] for name, values in known.facts.items()})
        ids = np.array(known.ids)[tested]
        challenger = Model(0, storage.join(run, EXPORT_DIR))
        # The export is scored, not the run's own result: what is published is what was judged.
        answers = self._answers(run, challenger, _CHALLENGER, truth)
        siblings = [
            self._answers(other, Model(0, storage.join(other, EXPORT_DIR)), _CHALLENGER, truth)
            for other in self.runs
            if other != run
        ]
        of_champion = of_anchor = None
        if champion:
            of_champion = self._rival("the champion", champion, truth)
            if champion.number != config.gate.anchor and config.gate.anchor is not None:
                anchor = registry.numbered(config.models, config.gate.anchor)
                of_anchor = self._rival(f"the anchor, model {anchor.number},", anchor, truth)
            page = storage.join(self.pages, COMPARISON)
            self.steps.compare(scores_of(run, str(champion.number)), scores_of(run, _CHALLENGER), page)
        return gate.judge(
            answers,
            challenger.labels(),
            of_champion,
            anchor=of_anchor,
            siblings=siblings,
            handover=self._handover(challenger, truth, lost=lost_share(answers, of_champion) if of_champion else 0.0),
            removed_labels=config.data_gate.removed_labels,
            parts={name: frozenset(ids[inside].tolist()) for name, inside in parts.items()},
            config=config.gate,
        )

    def _splits(self) -> list[str]:
        both = [TEST, VALIDATION] if self.steps.config.gate.pools else [TEST]
        return [split for split in both if self.data.manifest.splits.get(split)]

    def _answers(self, run: str, model: Model, name: str, truth: Mapping[str, str]) -> list[Prediction]:
        """Asks a model; what the model that training started from has seen is no evidence."""
        files = [self.steps.score(model.path, scores_of(run, name, split), split=split) for split in self._splits()]
        return [answer for file in files for answer in read_answers(file, truth) if answer.id not in self.inherited]

    def _rival(self, name: str, model: Model, truth: Mapping[str, str]) -> Rival:
        answers = self._answers(self.published, model, str(model.number), truth)
        return Rival(name=name, answers=answers, labels=model.labels(), trained_on=model.trained_on())

    def _handover(self, challenger: Model, truth: Mapping[str, str], *, lost: float) -> Handover:
        if not storage.exists(challenger.file(_GOLDEN)):
            return Handover(refused=[_NOT_ASKED.format(run=self.published)], told=[], figures={})
        beside = self.champion.path if self.champion else None
        against = f"-{self.champion.number}" if self.champion else ""
        file = storage.join(self.published, f"{HANDOVER_FILE}{against}.json")
        found = json.loads(storage.read_text(self.steps.verify(challenger.path, beside, file)))
        return judge_handover(found, truth, self.steps.config.gate, lost=lost)

    def seen(self) -> list[str]:
        """Lists the ids of all images that the challenger was trained or selected on, by itself or before."""
        evidence = self._splits()
        known = zip(self.known.ids, self.known.splits, strict=True)
        own = {image for image, split in known if split not in evidence}
        return sorted(own | self.inherited)


def scores_of(run: str, model: str, split: str = TEST) -> str:
    """Names the file of what a model, "challenger" or the number of an earlier one, answers to a split."""
    name = model if model == _CHALLENGER else f"model-{model}"
    return storage.join(run, f"gate-{name}.npz" if split == TEST else f"gate-{name}-{split}.npz")


def _validation_loss(run: str) -> float | None:
    try:
        result = json.loads(storage.read_text(storage.join(run, "result.json")))
    except FileNotFoundError:
        return None
    found = result.get("splits", {}).get(VALIDATION)
    return float(found["loss"]) if found else None


def starts_from(champion: Model | None, history: Sequence[Mapping[str, object]], *, cold_every: int) -> Model | None:
    """Returns the model that a pass starts from: the champion, unless this is the pass that starts cold.

    Args:
      champion: None without one.
      history: the decisions of earlier passes that trained, oldest first.
      cold_every: how often a pass starts cold.
    """
    warm = 0
    for record in reversed(history):
        if record.get("started_from") is None:
            break
        warm += 1
    return None if warm + 1 >= cold_every else champion
