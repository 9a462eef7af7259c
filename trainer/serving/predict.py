"""Classifies images with an exported model, each brought into shape by the builder's pixel policy."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget, Spec
from pipeline.images.policy import PixelPolicy, Reject
from trainer.serving.litert import FEATURES, PROBABILITIES
from trainer.serving.loading import Parts
from trainer.serving.photos import read_source
from trainer.serving.prepare import Prepared, prepare

_READ_TOGETHER = 8  # images that a decoder is given at a time
_AHEAD = 2  # batches that are read while others are classified


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Holds what a model says of an image.

    Attributes:
      name: of the file, or the URL.
      problem: why there is no answer; "" where there is one.
      encoded: the image, as the builder would put it into a record.
      file: the image as it was read.
      probabilities: float32 [C].
      features: float32 [F]; None where the model does not tell them.
    """

    name: str
    problem: str = ""
    encoded: bytes = b""
    file: bytes = b""
    probabilities: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    features: np.ndarray | None = None


Read = Callable[[str], bytes | Prepared | str]


def read_images(
    decoder: Decoder, names: Sequence[str], *, spec: Spec | None, read: Read = read_source
) -> list[Prepared | str]:
    """Reads images and prepares them for a model, see `prepare` and `predict`; or says (a str) why that cannot be."""
    files = [read(name) for name in names]
    prepared = iter(prepare(decoder, [one for one in files if isinstance(one, bytes)], spec))
    found = [next(prepared) if isinstance(one, bytes) else one for one in files]
    return [one.detail if isinstance(one, Reject) else one for one in found]


def classify(parts: Parts, images: Sequence[tuple[str, Prepared]]) -> list[Answer]:
    """Answers for all images, given with their names, also if the model cannot decode some."""
    if not images:
        return []
    try:
        found = parts.ask([image.shown for _, image in images])
    except ValueError as error:
        if len(images) == 1:
            return [Answer(name=images[0][0], problem=str(error))]
        return [answer for one in images for answer in classify(parts, [one])]
    features = found.get(FEATURES, itertools.repeat(None))
    return [
        Answer(name=name, encoded=image.encoded, file=image.file, probabilities=probabilities, features=of)
        for (name, image), probabilities, of in zip(images, found[PROBABILITIES], features, strict=False)
    ]


def predict(parts: Parts, names: Iterable[str], *, batch_size: int, read: Read = read_source) -> Iterator[Answer]:
    """Yields answers in the order of the names; the next images are read while some are classified.

    Args:
      parts: the model.
      names: of files and URLs, or whatever `read` knows.
      batch_size: images classified at a time.
      read: returns the file of a name, or what needs no decoder; or (a str) why it cannot be read.
    """
    names = iter(names)
    waiting: collections.deque[concurrent.futures.Future[list[Answer]]] = collections.deque()
    pool = DecoderPool(PixelPolicy(), ImageBudget())
    work = functools.partial(read_images, spec=parts.spec, read=read)
    with (
        contextlib.closing(pool),
        contextlib.closing(Decoders(_decoders(), pool)) as decoders,
        concurrent.futures.ThreadPoolExecutor(parts.abreast) as asking,
    ):
        while True:
            batch = list(itertools.islice(names, batch_size))
            if batch:
                together = [batch[at : at + _READ_TOGETHER] for at in range(0, len(batch), _READ_TOGETHER)]
                tasks = [decoders.submit(work, some) for some in together]
                waiting.append(asking.submit(_answered, parts, batch, tasks))
            if not waiting:
                return
            if not batch or len(waiting) > parts.abreast + _AHEAD:
                yield from waiting.popleft().result()


def _decoders() -> int:
    return len(os.sched_getaffinity(0))


def _answered(
    parts: Parts, names: Sequence[str], tasks: Sequence[concurrent.futures.Future[list[Prepared | str]]]
) -> list[Answer]:
    read = [(name, one) for name, one in zip(names, itertools.chain(*(task.result() for task in tasks)), strict=True)]
    answers = iter(classify(parts, [(name, one) for name, one in read if isinstance(one, Prepared)]))
    return [Answer(name=name, problem=one) if isinstance(one, str) else next(answers) for name, one in read]
