"""Takes encoded images to answers: each through the builder's pixel policy, in a guarded decoder, then to the model."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.images.facts import ImageFacts
from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget, Spec
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from trainer.serving.prepare import Prepared, prepare

if TYPE_CHECKING:  # what takes long to import: decoders start first
    from trainer.serve.models import Model
    from trainer.serve.protocols.bodies import Answer

_LEAST_DECODERS, _MOST_DECODERS = 2, 8
_SECONDS = 10.0  # for an image; half of what a build takes its time for, since somebody waits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """Holds what became of an image that could be read; its facts where somebody wants them."""

    answer: Answer
    facts: ImageFacts | None


class Answering:
    """Has images decoded by guarded processes, several at a time, and asked about."""

    def __init__(self) -> None:
        """Starts decoders, without waiting for them."""
        decoders = min(max(_LEAST_DECODERS, len(os.sched_getaffinity(0))), _MOST_DECODERS)
        self._pool = DecoderPool(PixelPolicy(), ImageBudget(seconds=_SECONDS))
        self._pool.start(decoders)
        self._decoders = Decoders(decoders, self._pool)

    def prepare(self, images: Sequence[bytes], spec: Spec | None) -> list[Prepared | Reject]:
        """Prepares images for a model and waits for them, see `prepare.prepare`."""
        return self._decoders.submit(lambda decoder, some: prepare(decoder, some, spec), images).result()

    async def ask(self, model: Model, images: Sequence[bytes], *, facts_of: Sequence[bool]) -> list[Answered | Reject]:
        """Returns for each image what the model answers, or why the image is refused.

        Args:
          model: that is asked.
          images: encoded.
          facts_of: whether facts are wanted, for each image: that takes another decoding.
        """

        def work(
            decoder: Decoder, task: tuple[bytes, bool]
        ) -> tuple[ImageFacts | None, concurrent.futures.Future[Answer]] | Reject:
            image, wants_facts = task
            (prepared,) = prepare(decoder, [image], model.spec)
            if isinstance(prepared, Reject):
                return prepared
            answer = model.submit(prepared)
            (facts,) = decoder.inspect([image]) if wants_facts else (None,)
            return None if isinstance(facts, Reject) else facts, answer

        tasks = zip(images, facts_of, strict=True)
        waiting = [asyncio.wrap_future(self._decoders.submit(work, task)) for task in tasks]
        answered: list[Answered | Reject] = []
        for found in await asyncio.gather(*waiting):
            if isinstance(found, Reject):
                answered.append(found)
                continue
            facts, future = found
            try:
                answered.append(Answered(answer=await asyncio.wrap_future(future), facts=facts))
            except ValueError as error:  # of a form that decodes by itself
                answered.append(_unsupported(error))
        return answered

    def close(self) -> None:
        """Ends the threads and the decoders."""
        self._decoders.close()
        self._pool.close()


def _unsupported(error: ValueError) -> Reject:
    return Reject(code=RejectCode.UNSUPPORTED, detail=str(error))
