"""Has a model answer whatever waits, together: alone nobody waits, and under load a batch costs less than its parts."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Batcher(Generic[T, S]):
    """Asks a function about items in a thread of its own, about all that wait at once, up to so many."""

    def __init__(
        self,
        ask: Callable[[Sequence[T]], Sequence[S]],
        *,
        most: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Starts the thread.

        Args:
          ask: returns an answer for each item, in their order; ValueError where it refuses one of them.
          most: items that it is asked about at once.
          observe: is told the size of each batch.
        """
        self._ask = ask
        self._most = most
        self._observe = observe
        self._waiting: queue.SimpleQueue[tuple[T, concurrent.futures.Future[S]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> concurrent.futures.Future[S]:
        """Returns what will hold the answer, or what `ask` raised."""
        future: concurrent.futures.Future[S] = concurrent.futures.Future()
        self._waiting.put((item, future))
        return future

    def close(self) -> None:
        """Ends the thread when all that was submitted is answered; does not wait for it."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = [first], False
            while len(batch) < self._most and not last:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                else:
                    batch.append(following)
            self._answer([one for one in batch if one[1].set_running_or_notify_cancel()])
            if last:
                return

    def _answer(self, batch: Sequence[tuple[T, concurrent.futures.Future[S]]]) -> None:
        if not batch:
            return
        self._observe(len(batch))
        try:
            answers = self._ask([item for item, _ in batch])
        except ValueError as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:  # who is refused costs only itself
                self._answer([one])
        except Exception as error:  # a thread that ends would leave all that follow without an answer
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
