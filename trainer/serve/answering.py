"""Takes encoded images to answers: each through the builder's pixel policy, in a guarded decoder, then to the model."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Sequence

from pipeline.images.facts import ImageFacts
from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from trainer.serve.models import Model
from trainer.serve.protocols.bodies import Answer
from trainer.serving.records import as_record

_SECONDS = 10.0  # for an image; half of what a build takes its time for, since somebody waits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """Holds what became of an image that could be read."""

    answer: Answer
    facts: ImageFacts


class Answering:
    """Has images decoded by guarded processes, several at a time, and asked about."""

    def __init__(self, decoders: int) -> None:
        """Starts so many decoders, without waiting for them; they end with the thread that calls this."""
        self._pool = DecoderPool(PixelPolicy(), ImageBudget(seconds=_SECONDS))
        self._pool.start(decoders)
        self._decoders = Decoders(decoders, self._pool)

    async def ask(self, model: Model, images: Sequence[bytes]) -> list[Answered | Reject]:
        """Returns for each image what the model answers, or why the image is refused."""

        def work(decoder: Decoder, data: bytes) -> tuple[ImageFacts, concurrent.futures.Future[Answer]] | Reject:
            found = as_record(decoder, data)
            if isinstance(found, Reject):
                return found
            try:
                return found[0], model.submit(found[1])
            except ValueError as error:
                return _unsupported(error)

        waiting = [asyncio.wrap_future(self._decoders.submit(work, image)) for image in images]
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
