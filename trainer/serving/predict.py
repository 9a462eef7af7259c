"""Classifies images with an exported model, each brought into shape by the builder's pixel policy."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget
from pipeline.images.policy import PixelPolicy
from trainer.serving.litert import FEATURES, PROBABILITIES
from trainer.serving.photos import read_image
from trainer.serving.signature import Signature

_READERS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Holds what a model says of an image.

    Attributes:
      name: of the file, or the URL.
      problem: why there is no answer; "" where there is one.
      encoded: the image, as the builder would put it into a record.
      probabilities: float32 [C].
      features: float32 [F]; None where the model does not tell them.
    """

    name: str
    problem: str = ""
    encoded: bytes = b""
    probabilities: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    features: np.ndarray | None = None


def classify(signature: Signature, images: Sequence[tuple[str, bytes]]) -> list[Answer]:
    """Answers for all images, given as names and encoded bytes, also if the signature refuses some."""
    if not images:
        return []
    try:
        found = signature([encoded for _, encoded in images])
    except ValueError as error:
        if len(images) == 1:
            return [Answer(name=images[0][0], problem=str(error))]
        return [answer for one in images for answer in classify(signature, [one])]
    features = found.get(FEATURES, itertools.repeat(None))
    return [
        Answer(name=name, encoded=encoded, probabilities=probabilities, features=of)
        for (name, encoded), probabilities, of in zip(images, found[PROBABILITIES], features, strict=False)
    ]


def predict(
    signature: Signature,
    names: Iterable[str],
    *,
    batch_size: int,
    read: Callable[[Decoder, str], bytes | str] = read_image,
) -> Iterator[Answer]:
    """Yields answers in the order of the names; the next batch is read while one is classified.

    Args:
      signature: the model.
      names: of files and URLs, or whatever `read` knows.
      batch_size: images classified at a time.
      read: returns the image of a name as the builder would put it into a record; or (a str) why that cannot be.
    """
    names = iter(names)
    waiting: collections.deque[list[tuple[str, concurrent.futures.Future[bytes | str]]]] = collections.deque()
    pool = DecoderPool(PixelPolicy(), ImageBudget())
    with contextlib.closing(pool), contextlib.closing(Decoders(_READERS, pool)) as decoders:
        while True:
            batch = [(name, decoders.submit(read, name)) for name in itertools.islice(names, batch_size)]
            if batch:
                waiting.append(batch)
            if not waiting:
                return
            if not batch or len(waiting) > 1:
                yield from _answered(signature, [(name, task.result()) for name, task in waiting.popleft()])


def _answered(signature: Signature, read: Sequence[tuple[str, bytes | str]]) -> Iterator[Answer]:
    answers = iter(classify(signature, [(name, one) for name, one in read if isinstance(one, bytes)]))
    for name, one in read:
        yield Answer(name=name, problem=one) if isinstance(one, str) else next(answers)
