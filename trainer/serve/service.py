"""Holds what a running server has: the model that answers now, what is under way, and what is counted and logged."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from absl import logging
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipeline.command import first_line
from pipeline.images.facts import ImageFacts, comparable_of
from pipeline.images.policy import Reject
from trainer.serve.answering import Answered, Answering
from trainer.serve.intake import Intake
from trainer.serve.limits import Limits
from trainer.serve.metrics import Metrics
from trainer.serve.models import Model


class Service:
    """Answers for images with the model of the moment; for the thread of the event loop."""

    def __init__(
        self, *, name: str, model: Model, answering: Answering, limits: Limits, metrics: Metrics, log_share: float
    ) -> None:
        """Takes what is loaded.

        Args:
          name: of the model, in paths.
          model: what answers first.
          answering: what decodes.
          limits: for requests.
          metrics: where all is counted.
          log_share: of the answers, which is logged where the model has a log.
        """
        self.name = name
        self.model = model
        self.limits = limits
        self.metrics = metrics
        self.intake = Intake(limits)
        self.draining = False
        self._answering = answering
        self._log_share = log_share

    def change(self, model: Model) -> None:
        """Has another model answer from now on; the one before ends with its last request."""
        before, self.model = self.model, model
        before.retire()

    def model_for(self, name: str, version: str | None) -> Model:
        """Returns the model that a path means.

        Raises:
          HTTPException: 404, with what there is.
        """
        if name != self.name:
            raise HTTPException(404, f"no model {name[:100]!r} here; the model is called {self.name!r}")
        if version is not None and version != self.model.version:
            raise HTTPException(404, f"{name} has no version {version[:100]!r} here; it serves {self.model.version!r}")
        return self.model

    async def answer(self, request: Request, model: Model, images: Sequence[bytes]) -> list[Answered | Reject]:
        """Returns for each image what the model answers, or why the image is refused.

        Raises:
          HTTPException: 413 or 503 where there is no room for so many.
        """
        request.state.version = model.version
        with self.intake.room_for(len(images)), model.answering():
            logged = [model.log is not None and random.random() < self._log_share for _ in images]
            found = await self._answering.ask(model, images, facts_of=logged)
            for one, image in zip(found, images, strict=True):
                self.metrics.image(one.code.value if isinstance(one, Reject) else "answered")
                if isinstance(one, Answered) and one.facts is not None:
                    _log(model, one, one.facts, image)
        return found


def _log(model: Model, answered: Answered, facts: ImageFacts, image: bytes) -> None:
    """Logs an answer; whatever goes wrong with that, the answer is given."""
    assert model.log is not None
    try:
        model.log.add(
            probabilities=answered.answer.probabilities,
            features=answered.answer.features,
            facts=comparable_of(facts, image),
            seconds=time.time(),
        )
    except Exception as error:
        logging.log_every_n_seconds(logging.WARNING, "an answer is not logged: %s", 60, first_line(error))
