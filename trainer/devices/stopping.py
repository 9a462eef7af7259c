"""Hears that a run is to stop, or to save: SIGTERM, Ctrl-C, and notices of Google's metadata server.

A run that is told to stop comes to a place where it saves its state and ends. TensorFlow may keep it from coming there
for minutes, in a compiler that no Python handler reaches: then it is ended where it is, fit to go on from what was
saved before, as after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from absl import logging

from pipeline.command import ExitCode, TryAgainError, end_at_once
from pipeline.interrupts import heard_anywhere
from trainer.devices import notices

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE_SECONDS = 3.0  # of the ten that `docker stop` gives, and the thirty of a spot VM: saving comes after them
_STOPPED = "stopped on request; what was saved before is kept, run the same command again to go on"


class Wishes:
    """Notes what is wished: the first SIGTERM or Ctrl-C stops a run, a second Ctrl-C breaks it off.

    Attributes:
      stop: whether to save the state and stop.
    """

    def __init__(self, *, grace: float = _GRACE_SECONDS) -> None:
        """Notes nothing yet.

        Args:
          grace: seconds after the wish to stop in which the state may begin to be saved.
        """
        self.stop = False
        self._save = False
        self._at_once = False
        self._saving = 0
        self._saved = threading.Condition()
        self._end = threading.Timer(grace, self._end_here)
        self._end.daemon = True
        self._telling = threading.Thread(daemon=True)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Ends the block by a TryAgainError as soon as a stop is wished: where there is no new state to be saved."""
        before, self._at_once = self._at_once, True
        try:
            self._end_if_wished()
            yield
        except Exception as error:
            if self.stop:  # TensorFlow makes errors of its own of one that is raised while it runs Python
                raise TryAgainError(_STOPPED) from error
            raise
        finally:
            self._at_once = before

    def _end_if_wished(self) -> None:
        if self.stop and self._at_once:
            raise TryAgainError(_STOPPED)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Lets the block come to its end, however long it takes; for any thread."""
        with self._saved:
            self._saving += 1
        try:
            yield
        finally:
            with self._saved:
                self._saving -= 1
                self._saved.notify()

    def save(self) -> bool:
        """Says, once, whether to save the state now."""
        save, self._save = self._save, False
        return save

    def on_signal(self, number: int, frame: object) -> None:
        """Handles a signal; Python calls it in the main thread, between two steps of its interpreter."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.request_stop(signal.Signals(number).name)
        self._end_if_wished()

    def hear(self, number: int) -> None:
        """Hears of a signal in a thread of its own, before the main one comes to handle it."""
        if number in _SIGNALS:
            self.request_stop(signal.Signals(number).name)

    def on_notice(self, key: str) -> None:
        """Takes one of the notices of `notices.watch`."""
        if key == notices.PREEMPTED:
            self.request_stop("this machine is pre-empted")
        else:
            self._save = True
            logging.warning("this machine is to be stopped for maintenance: saving the state now, and going on")

    def request_stop(self, why: str) -> None:
        """Wishes that the run stops; for any thread, of which all but the first say nothing new.

        It is told by a thread of its own: a handler of signals may have interrupted a line that is being written, and
        streams let nobody write before that is done.
        """
        what = "stopping" if self._at_once else "saving the state and stopping"
        with self._saved:
            if self.stop:
                return
            self.stop = True
            self._end.start()
            self._telling = threading.Thread(target=logging.warning, args=("%s: %s", why, what), daemon=True)
            self._telling.start()

    def forget(self) -> None:
        """Ends nothing any more."""
        with self._saved:
            self._end.cancel()
        if self._telling.is_alive():
            self._telling.join(_GRACE_SECONDS)

    def _end_here(self) -> None:
        with self._saved:
            self._saved.wait_for(lambda: not self._saving)
            if not self._end.finished.is_set():
                if sys.stderr.isatty():
                    sys.stderr.write("\n")  # below the bar that shows progress
                self.end(_STOPPED)

    def end(self, message: object) -> NoReturn:
        """Ends the process when nothing is being saved any more, without TensorFlow, which takes seconds to go."""
        with self._saved:
            self._saved.wait_for(lambda: not self._saving)
            end_at_once(ExitCode.AGAIN, f"error: {message}")


@contextlib.contextmanager
def listening(*, on_cloud: bool, grace: float = _GRACE_SECONDS) -> Iterator[Wishes]:
    """Listens while the block runs; afterwards signals mean what they did before.

    In another thread than the main one, where Python lets nobody listen to signals, they keep their meaning.

    Args:
      on_cloud: whether there is a metadata server to ask.
      grace: see `Wishes`.
    """
    wishes = Wishes(grace=grace)
    if on_cloud:
        notices.watch(wishes.on_notice)
    try:
        with heard_anywhere(wishes.hear), handled(wishes):
            yield wishes
    finally:
        wishes.forget()


@contextlib.contextmanager
def handled(wishes: Wishes) -> Iterator[None]:
    """Has signals handled by `wishes`: once more where TensorFlow, which has made a server, has set its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, wishes.on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
