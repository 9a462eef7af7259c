"""Runs as a child of `guarded.Decoder`: reads images from standard input, writes what they are to standard output."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from pipeline.format.packing import pack, unpack
from pipeline.images import heap
from pipeline.images.encode import render, thumbnail
from pipeline.images.facts import Look, facts_fields, look, make_facts
from pipeline.images.guarded import INSPECT, LENGTH, RENDER, THUMBNAIL, ImageBudget
from pipeline.images.policy import PixelPolicy, Reject, RejectCode

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WORK: dict[str, Callable[[bytes, PixelPolicy], Look | bytes | Reject]] = {
    INSPECT: look,
    RENDER: render,
    THUMBNAIL: lambda data, _: thumbnail(data),
}
_UNCLEAR = (RejectCode.CORRUPT, RejectCode.TRUNCATED, RejectCode.UNSUPPORTED)


class _Failures:
    """Tells whether memory was refused to C code since `forget`: decoders then say something else, or nothing."""

    def __init__(self) -> None:
        self._errno = None
        if sys.platform == "linux":
            location = ctypes.CDLL(None)["__errno_location"]
            location.restype = ctypes.POINTER(ctypes.c_int)
            self._errno = location().contents

    def forget(self) -> None:
        if self._errno is not None:
            self._errno.value = 0

    @property
    def out_of_memory(self) -> bool:
        return self._errno is not None and self._errno.value == errno.ENOMEM


class Child:
    """Answers for images, each within the budget."""

    def __init__(self, policy: PixelPolicy, budget: ImageBudget, place: int) -> None:
        self._policy = policy
        self._budget = budget
        self._place = place
        self._failures = _Failures()

    def answer(self, what: str, images: Sequence[bytes]) -> list[Any]:
        """Returns for each image its facts' fields or its new bytes, or a code and a detail where it is refused."""
        results = [self._one(number, data, what) for number, data in enumerate(images)]
        facts = iter(make_facts([seen for seen in results if isinstance(seen, Look)]))
        answers: list[Any] = []
        for result in results:
            if isinstance(result, Look):
                answers.append(facts_fields(next(facts)))
            else:
                answers.append((result.code.value, result.detail) if isinstance(result, Reject) else result)
        return answers

    def _one(self, number: int, data: bytes, what: str) -> Look | bytes | Reject:
        os.pwrite(self._place, bytes([number]), 0)
        self._failures.forget()
        signal.setitimer(signal.ITIMER_REAL, self._budget.seconds)
        try:
            result = _WORK[what](data, self._policy)
        except MemoryError:
            return self._budget.too_much_memory
        except Exception as error:  # no image ends a build, whatever we overlooked in it
            result = Reject(code=RejectCode.CORRUPT, detail=f"{type(error).__name__}: {error}"[:200])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(result, Reject) and result.code in _UNCLEAR and self._failures.out_of_memory:
            return self._budget.too_much_memory
        return result


def _serve(child: Child, memory: int, requests: BinaryIO, replies: BinaryIO) -> None:
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        what, images = unpack(requests.read(LENGTH.unpack(head)[0]))
        with heap.limited_memory(memory):
            answers = child.answer(what, images)
        message = pack(answers)
        del images, answers
        replies.write(LENGTH.pack(len(message)) + message)
        replies.flush()


def main() -> None:
    settings = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the parent, too: this process ends with its input
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform == "linux":  # while it decodes, it does not see that its input has ended
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no reply
    heap.give_back()
    budget = ImageBudget(**settings["budget"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    child = Child(PixelPolicy(**settings["policy"]), budget, settings["place"])
    _serve(child, budget.memory, sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
