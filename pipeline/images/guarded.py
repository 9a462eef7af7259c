"""Decodes images in a process of its own, within a budget of time and memory that the kernel enforces.

A decoder may loop for hours in C, take all memory or crash on bytes from the world; no thread can stop it. So it runs
in a lean child (`decoder_child`), to which bytes go and from which facts and record bytes come, never pixels. The child
ends itself: a timer that it sets for each image kills it, and so many bytes of address space are all that it gets. The
image is refused, and a new child goes on behind it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.format.packing import pack, unpack
from pipeline.images.facts import ImageFacts, facts_of
from pipeline.images.policy import PixelPolicy, Reject, RejectCode

LENGTH = struct.Struct("<Q")  # before every message, bytes
INSPECT, RENDER, THUMBNAIL = "inspect", "render", "thumbnail"
TOGETHER = 16  # images that are inspected together: so few stay in the cache of the processor
_PACKAGES = str(pathlib.Path(__file__).parents[2])
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
_NOWHERE = b"\xff"  # the child has not come to an image yet
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


def child_environment() -> dict[str, str]:
    """Makes the environment of a lean child: it finds these packages, from wherever its parent has them."""
    paths = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
    # A thread a core for linear algebra would take much of the address space.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


class Decoder:
    """Inspects and renders images in a child process; for one thread at a time."""

    def __init__(self, policy: PixelPolicy, budget: ImageBudget) -> None:
        self._policy = policy
        self._budget = budget
        self._child: subprocess.Popen[bytes] | None = None
        # The child notes here at which image it is: what is left to read when it has died.
        self._place = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`

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

    def thumbnail(self, image: bytes) -> bytes | Reject:
        """Returns a small JPEG, see `encode.thumbnail`, or why there can be none."""
        (answer,) = self._ask(THUMBNAIL, [image])
        return answer

    def start(self) -> None:
        """Starts the child, if there is none, without waiting for it."""
        if self._child is None:
            self._child = self._start()

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._end(self._child)
        self._place.close()

    def _ask(self, what: str, images: Sequence[bytes], *, strikes: int = 0) -> list[Any]:
        if not images:
            return []
        answers, code = self._exchange(what, images)
        if answers is not None:
            return answers
        place = os.pread(self._place.fileno(), 1, 0)
        at = place[0]
        if code == -signal.SIGALRM:
            refused = self._budget.too_slow
        elif -code in _CRASHES and place != _NOWHERE:
            refused = Reject(code=RejectCode.CORRUPT, detail=f"the decoder crashed ({signal.Signals(-code).name})")
        elif strikes == 0:
            return self._ask(what, images, strikes=1)  # ended from outside: perhaps not the image's doing
        elif (
            code == -signal.SIGKILL and place != _NOWHERE
        ):  # twice at the same place: the system had no memory left for it
            refused = self._budget.too_much_memory
        else:
            command = f"{sys.executable} -m pipeline.images.decoder_child"
            raise RuntimeError(f"the decoder ended with code {code}; its errors are to be seen with: {command}")
        return [*self._ask(what, images[:at]), refused, *self._ask(what, images[at + 1 :])]

    def _exchange(self, what: str, images: Sequence[bytes]) -> tuple[list[Any] | None, int]:
        """Returns the child's answers, or None and the exit status of a child that has died."""
        os.pwrite(self._place.fileno(), _NOWHERE, 0)
        self.start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        message = pack((what, images))
        try:
            child.stdin.write(LENGTH.pack(len(message)))
            child.stdin.write(message)
            child.stdin.flush()
            head = child.stdout.read(LENGTH.size)
            if len(head) == LENGTH.size:
                (size,) = LENGTH.unpack(head)
                body = child.stdout.read(size)
                if len(body) == size:
                    return [_answer(fields) for fields in unpack(body)], 0
        except BrokenPipeError:
            pass
        self._child = None
        return None, self._end(child)

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {"policy": dataclasses.asdict(self._policy), "budget": dataclasses.asdict(self._budget)}
        place = self._place.fileno()
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.images.decoder_child", json.dumps({**settings, "place": place})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders remark on files there
            pass_fds=[place],
            env=child_environment(),
        )

    def _end(self, child: subprocess.Popen[bytes]) -> int:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # what it waits for to end
        child.stdout.close()
        return child.wait()


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
        self._idle: collections.deque[Decoder] = collections.deque()

    def start(self, count: int) -> None:
        """Starts so many, without waiting for them. Their children end with the thread that calls this."""
        for _ in range(count):
            decoder = Decoder(self._policy, self._budget)
            decoder.start()
            self._idle.append(decoder)

    @contextlib.contextmanager
    def lent(self) -> Iterator[Decoder]:
        """Lends a decoder."""
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = Decoder(self._policy, self._budget)
        try:
            yield decoder
        finally:
            self._idle.append(decoder)

    def close(self) -> None:
        """Ends those that are not lent."""
        while self._idle:
            self._idle.pop().close()


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
