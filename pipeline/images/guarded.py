"""Decodes images in a process of its own, within a budget of time and memory that the kernel enforces.

A decoder may loop for hours in C, take all memory or crash on bytes from the world; no thread can stop it. So it runs
in a lean child (`decoder_child`), to which bytes go and from which facts, record bytes or the pixels that a model sees
come. The child ends itself: a timer that it sets for each image kills it, and so many bytes of address space are all
that it gets. The image is refused, and a new child goes on behind it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.format.packing import pack, unpack
from pipeline.images.area import Area
from pipeline.images.facts import ImageFacts, facts_of
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from pipeline.images.zygote import COMMAND, LENGTH, Forked, Zygote

Spec = Mapping[str, Any]  # how a model sees images, see `model_pixels.pixels`
INSPECT, RENDER, THUMBNAIL, SEE = "inspect", "render", "thumbnail", "see"
TOGETHER = 16  # images that are inspected together: so few stay in the cache of the processor
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageBudget:
    """Says what decoding one image may take.

    Attributes:
      seconds: wall time.
      memory: bytes of address space, the encoded image not counted. Only Linux enforces it.
    """

    seconds: float = 20.0
    memory: int = 1 << 30

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 86_400:
            raise ValueError(f"seconds must be 0.1 to 86400, got {self.seconds}")
        if self.memory < 16 * _MIB:
            raise ValueError(f"memory must be at least {16 * _MIB}, got {self.memory}")

    @property
    def too_slow(self) -> Reject:
        detail = f"decoding takes more than {self.seconds:g} s"
        return Reject(code=RejectCode.TOO_SLOW, detail=detail)

    @property
    def too_much_memory(self) -> Reject:
        detail = f"decoding takes more than {self.memory // _MIB} MiB of memory"
        return Reject(code=RejectCode.TOO_MUCH_MEMORY, detail=detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """Holds what a model sees of an image.

    Attributes:
      pixels: float32 `[height, width, 3]`, 0 to 255.
      record: the image as the builder would put it into a record, but for `PixelPolicy.strip_metadata`.
    """

    pixels: np.ndarray
    record: bytes


def shape_of(spec: Spec) -> tuple[int, int, int]:
    """Returns the shape of the pixels that a model sees of an image."""
    return spec["height"], spec["width"], 3


class Decoder:
    """Inspects and renders images in a child process; for one thread at a time."""

    def __init__(self, policy: PixelPolicy, budget: ImageBudget, zygote: Zygote | None = None) -> None:
        """Makes a decoder, whose child starts with its first image or `start`.

        Args:
          policy: what is accepted, and what a record's image looks like.
          budget: for each image.
          zygote: what forks the child; None for one of its own.
        """
        self._settings = {"policy": dataclasses.asdict(policy), "budget": dataclasses.asdict(budget)}
        self._budget = budget
        self._zygote = zygote or Zygote()
        self._owns_zygote = zygote is None
        self._child: Forked | None = None
        self._area = Area()

    def inspect(self, images: Sequence[bytes]) -> list[ImageFacts | Reject]:
        """Returns each image's facts, or why it is refused.

        Args:
          images: some megabytes of encoded images, some 16 of them: their facts are made together, which is faster.
        """
        answers = self._ask(INSPECT, images)
        return [answer if isinstance(answer, Reject) else facts_of(answer) for answer in answers]

    def render(self, images: Sequence[bytes]) -> list[bytes | Reject]:
        """Returns each image as the record wants it, see `encode.render`, or why that cannot be."""
        return self._ask(RENDER, images)

    def see(self, images: Sequence[bytes], spec: Spec) -> list[Seen | Reject]:
        """Returns what a model sees of each image, see `seeing.see`, or why it is refused."""
        return self._ask(SEE, images, spec)

    def thumbnail(self, image: bytes) -> bytes | Reject:
        """Returns a small JPEG, see `encode.thumbnail`, or why there can be none."""
        (answer,) = self._ask(THUMBNAIL, [image])
        return answer

    def start(self) -> None:
        """Starts the child, if there is none, without waiting for it."""
        if self._child is None:
            self._child = self._zygote.fork(self._settings, self._area.fileno())

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.end()
            self._child = None
        if self._owns_zygote:
            self._zygote.close()
        self._area.close()

    def _ask(self, what: str, images: Sequence[bytes], spec: Spec | None = None, *, strikes: int = 0) -> list[Any]:
        if not images:
            return []
        answers, code = self._exchange(what, images, spec)
        if answers is not None:
            return answers
        at = self._area.place
        if code == -signal.SIGALRM:
            refused = self._budget.too_slow
        elif -code in _CRASHES and at is not None:
            refused = Reject(code=RejectCode.CORRUPT, detail=f"the decoder crashed ({signal.Signals(-code).name})")
        elif strikes == 0:
            return self._ask(what, images, spec, strikes=1)  # ended from outside: perhaps not the image's doing
        elif code == -signal.SIGKILL and at is not None:  # twice at one place: the system had no memory left for it
            refused = self._budget.too_much_memory
        else:
            command = shlex.join(COMMAND)
            raise RuntimeError(f"the decoder ended with code {code}; its errors are to be seen with: {command}")
        assert at is not None  # the timer runs for images only
        return [*self._ask(what, images[:at], spec), refused, *self._ask(what, images[at + 1 :], spec)]

    def _exchange(self, what: str, images: Sequence[bytes], spec: Spec | None) -> tuple[list[Any] | None, int]:
        """Returns the child's answers, or None and the exit status of a child that has died."""
        self._area.place = None
        self.start()
        child = self._child
        assert child is not None
        shown = self._area.pixels(len(images), shape_of(spec)) if spec else None
        message = pack((what, images, spec))
        try:
            child.requests.write(LENGTH.pack(len(message)))
            child.requests.write(message)
            child.requests.flush()
            head = child.replies.read(LENGTH.size)
            if len(head) == LENGTH.size:
                (size,) = LENGTH.unpack(head)
                body = child.replies.read(size)
                if len(body) == size:
                    answers = [_answer(fields) for fields in unpack(body)]
                    return (answers if shown is None else _seen(answers, images, shown.copy())), 0
        except BrokenPipeError:
            pass
        self._child = None
        return None, child.end()


def _seen(answers: Sequence[Any], images: Sequence[bytes], pixels: np.ndarray) -> list[Seen | Reject]:
    """Puts pixels to answers, which are new bytes, None where the image is kept, or a `Reject`."""
    return [
        answer if isinstance(answer, Reject) else Seen(pixels=shown, record=answer or image)
        for answer, image, shown in zip(answers, images, pixels, strict=True)
    ]


def _answer(fields: Any) -> Any:
    """Turns the child's answer for an image, `(code, detail)` where it refuses, into a `Reject` or leaves it."""
    if isinstance(fields, tuple) and len(fields) == 2:
        return Reject(code=RejectCode(fields[0]), detail=fields[1])
    return fields


T = TypeVar("T")
S = TypeVar("S")


class DecoderPool:
    """Lends decoders, and keeps those given back for whoever asks next: to start one takes as long as many images."""

    def __init__(self, policy: PixelPolicy, budget: ImageBudget) -> None:
        self._policy = policy
        self._budget = budget
        self._zygote = Zygote()
        self._idle: collections.deque[Decoder] = collections.deque()

    def start(self, count: int) -> None:
        """Starts so many, without waiting for them."""
        for _ in range(count):
            decoder = self._decoder()
            decoder.start()
            self._idle.append(decoder)

    @contextlib.contextmanager
    def lent(self) -> Iterator[Decoder]:
        """Lends a decoder."""
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = self._decoder()
        try:
            yield decoder
        finally:
            self._idle.append(decoder)

    def close(self) -> None:
        """Ends them; none is lent."""
        while self._idle:
            self._idle.pop().close()
        self._zygote.close()

    def _decoder(self) -> Decoder:
        return Decoder(self._policy, self._budget, self._zygote)


class Decoders:
    """Works on several images at a time, in threads, each with a decoder of a pool."""

    def __init__(self, count: int, pool: DecoderPool) -> None:
        self._pool = pool
        self._threads = concurrent.futures.ThreadPoolExecutor(count)
        self.ahead = 2 * count  # tasks worth having under way: more would only fill the memory

    def submit(self, work: Callable[[Decoder, T], S], task: T) -> concurrent.futures.Future[S]:
        """Has a thread do the work with a decoder of its own."""
        return self._threads.submit(self._lend, work, task)

    def map(self, work: Callable[[Decoder, T], S], tasks: Iterable[T]) -> Iterator[S]:
        """Yields what the work makes of each task, in order; takes tasks only as fast as results are taken."""
        waiting: collections.deque[concurrent.futures.Future[S]] = collections.deque()
        for task in tasks:
            waiting.append(self.submit(work, task))
            if len(waiting) > self.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Ends the threads; the decoders stay with the pool."""
        self._threads.shutdown(cancel_futures=True)

    def _lend(self, work: Callable[[Decoder, T], S], task: T) -> S:
        with self._pool.lent() as decoder:
            return work(decoder, task)
