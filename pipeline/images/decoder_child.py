"""Runs as a child of `zygote.Zygote`: forks decoders, which read images and write what they are.

What decoders import is imported once, here; nothing of it starts threads, which a fork would lose.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

from pipeline.format.packing import pack, unpack
from pipeline.images import heap
from pipeline.images.area import Area
from pipeline.images.encode import render, thumbnail
from pipeline.images.facts import facts_fields
from pipeline.images.guarded import INSPECT, RENDER, THUMBNAIL, ImageBudget, Spec, shape_of
from pipeline.images.look import Look, look, make_facts
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from pipeline.images.seeing import see
from pipeline.images.zygote import LENGTH, NUMBER

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_Found = Look | bytes | tuple[np.ndarray, bytes] | Reject
_WORK: dict[str, Callable[[bytes, PixelPolicy], _Found]] = {
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

    def __init__(self, policy: PixelPolicy, budget: ImageBudget, area: Area) -> None:
        self._policy = policy
        self._budget = budget
        self._area = area
        self._failures = _Failures()

    def answer(self, what: str, images: Sequence[bytes], spec: Spec | None = None) -> list[Any]:
        """Answers for each image: a code and a detail where it is refused; else its facts' fields, or its new bytes.

        Where `spec` says what a model sees: its new bytes, or None where it is kept, and pixels in the shared area.
        """
        if spec:
            return self._show(images, spec, self._area.pixels(len(images), shape_of(spec)))
        results = [self._one(number, data, _WORK[what]) for number, data in enumerate(images)]
        facts = iter(make_facts([seen for seen in results if isinstance(seen, Look)]))
        return [facts_fields(next(facts)) if isinstance(result, Look) else _told(result) for result in results]

    def _show(self, images: Sequence[bytes], spec: Spec, places: np.ndarray) -> list[Any]:
        work, answers = functools.partial(see, spec=spec), []
        for number, data in enumerate(images):
            result = self._one(number, data, work)
            if isinstance(result, tuple):
                places[number], record = result
                answers.append(None if record is data else record)
            else:
                answers.append(_told(result))
        return answers

    def _one(self, number: int, data: bytes, work: Callable[[bytes, PixelPolicy], _Found]) -> _Found:
        self._area.place = number
        self._failures.forget()
        signal.setitimer(signal.ITIMER_REAL, self._budget.seconds)
        try:
            result = work(data, self._policy)
        except MemoryError:
            return self._budget.too_much_memory
        except Exception as error:  # no image ends a build, whatever we overlooked in it
            result = Reject(code=RejectCode.CORRUPT, detail=f"{type(error).__name__}: {error}"[:200])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(result, Reject) and result.code in _UNCLEAR and self._failures.out_of_memory:
            return self._budget.too_much_memory
        return result


def _told(result: Any) -> Any:
    return (result.code.value, result.detail) if isinstance(result, Reject) else result


def _serve(child: Child, memory: int, requests: BinaryIO, replies: BinaryIO) -> None:
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        what, images, spec = unpack(requests.read(LENGTH.unpack(head)[0]))
        with heap.limited_memory(memory):
            answers = child.answer(what, images, spec)
        message = pack(answers)
        del images, answers
        replies.write(LENGTH.pack(len(message)) + message)
        replies.flush()


def _decode(settings: dict[str, Any], requests: int, replies: int, area: int) -> None:
    """Answers requests until there are no more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform == "linux":  # while it decodes, it does not see that its input has ended
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    budget = ImageBudget(**settings["budget"])
    child = Child(PixelPolicy(**settings["policy"]), budget, Area(area))
    with os.fdopen(requests, "rb") as reader, os.fdopen(replies, "wb") as writer:
        _serve(child, budget.memory, reader, writer)


class _Nursery:
    """Forks when the parent asks for it, and tells it how what was forked ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._statuses: dict[int, int] = {}  # process id → descriptor to tell of its end
        self._ended, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # else there would be nothing to wake up for

    def run(self) -> tuple[dict[str, Any], int, int, int] | None:
        """Forks until the parent closes its end: None.

        Returns:
          in a forked process: its settings, and the descriptors of its requests, its replies and its area.
        """
        events = select.poll()  # not select, for which large descriptors are none
        for descriptor in (self._control.fileno(), self._ended):
            events.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in events.poll()]
            if self._ended in ready:
                os.read(self._ended, 1 << 12)
                self._tell_of_ends()
            if self._control.fileno() in ready:
                head, descriptors, _, _ = socket.recv_fds(self._control, LENGTH.size, 4)
                if not descriptors:
                    return None
                settings = self._control.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
                requests, replies, status, area = descriptors
                if not self._fork(status):
                    return json.loads(settings), requests, replies, area
                for descriptor in (requests, replies, area):
                    os.close(descriptor)

    def _fork(self, status: int) -> int:
        if pid := os.fork():
            self._statuses[pid] = status
            _tell(status, pid)
            return pid
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        for descriptor in (self._ended, self._woken, status, *self._statuses.values()):
            os.close(descriptor)
        return 0

    def _tell_of_ends(self) -> None:
        for pid in list(self._statuses):
            ended, how = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = self._statuses.pop(pid)
                _tell(status, os.waitstatus_to_exitcode(how))
                os.close(status)


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(status, NUMBER.pack(number))


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the parent, too: these processes end with their input
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    heap.give_back()
    gc.freeze()  # a collection would write to, and so copy, all that is shared
    if forked := _Nursery(control).run():
        _decode(*forked)


if __name__ == "__main__":
    main()
