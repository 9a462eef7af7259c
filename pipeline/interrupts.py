"""Answers Ctrl-C at once, whatever the main thread does: TensorFlow's compilers keep it from Python for seconds."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from pipeline.log_lines import write_line

_GRACE_SECONDS = 3.0  # to leave tidily; libraries may also have swallowed the interrupt


@contextlib.contextmanager
def heard_anywhere(hear: Callable[[int], None]) -> Iterator[None]:
    """Has a thread hear of signals, by their numbers, while the main one is where Python calls no handler.

    In another thread than the main one, where Python lets nobody listen to signals, nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while number := ear.recv(1):
            hear(number[0])

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()
        thread.join()
        ear.close()


class Interrupt:
    """Answers the first Ctrl-C, once; the process is ended if it goes on for seconds all the same."""

    def __init__(self, answer: str, end: Callable[[], None]) -> None:
        """Takes the line to answer, and what ends the process from any thread."""
        self._answer, self._lock, self._answered = answer, threading.Lock(), False
        self._end = threading.Timer(_GRACE_SECONDS, end)
        self._end.daemon = True

    def hear(self, number: int) -> None:
        """Hears of a signal; of one that a command handles in its own way nothing is said."""
        if number == signal.SIGINT and signal.getsignal(number) is signal.default_int_handler:
            self.answer()

    def answer(self) -> None:
        with self._lock:
            if self._answered:
                return
            self._answered = True
            self._end.start()
        write_line(self._answer)
