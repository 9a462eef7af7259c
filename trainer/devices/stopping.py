"""Hears that a run is to stop, or to save: SIGTERM, Ctrl-C, and notices of Google's metadata server."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from absl import logging

from pipeline.command import TryAgainError
from trainer.devices import notices

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Wishes:
    """Notes what is wished: the first SIGTERM or Ctrl-C stops a run, a second Ctrl-C breaks it off.

    Attributes:
      stop: whether to save the state and stop.
    """

    def __init__(self) -> None:
        self.stop = False
        self._save = False
        self._at_once = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Ends the block by a TryAgainError as soon as a stop is wished: where there is no new state to be saved."""
        before, self._at_once = self._at_once, True
        try:
            self._end_if_wished()
            yield
        finally:
            self._at_once = before

    def _end_if_wished(self) -> None:
        if self.stop and self._at_once:
            raise TryAgainError(
                "stopped on request; what was saved before is kept, run the same command again to go on"
            )

    def save(self) -> bool:
        """Says, once, whether to save the state now."""
        save, self._save = self._save, False
        return save

    def on_signal(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._request_stop(signal.Signals(number).name)
        self._end_if_wished()  # Python calls this in the main thread, which runs the block

    def on_notice(self, key: str) -> None:
        """Takes one of the notices of `notices.watch`."""
        if key == notices.PREEMPTED:
            self._request_stop("this machine is pre-empted")
        else:
            self._save = True
            logging.warning("this machine is to be stopped for maintenance: saving the state now, and going on")

    def _request_stop(self, why: str) -> None:
        self.stop = True
        logging.warning("%s: %s", why, "stopping" if self._at_once else "saving the state and stopping")


@contextlib.contextmanager
def listening(*, on_cloud: bool) -> Iterator[Wishes]:
    """Listens while the block runs; afterwards signals mean what they did before.

    In another thread than the main one, where Python lets nobody listen to signals, they keep their meaning.

    Args:
      on_cloud: whether there is a metadata server to ask.
    """
    wishes = Wishes()
    if on_cloud:
        notices.watch(wishes.on_notice)
    if threading.current_thread() is not threading.main_thread():
        yield wishes
        return
    before = {number: signal.signal(number, wishes.on_signal) for number in _SIGNALS}
    try:
        yield wishes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
