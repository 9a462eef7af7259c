"""Runs a local Beam worker process: Beam's own, but silent, and never alive without its launcher.

Beam's worker logs every start at INFO to stderr, whatever the options say, and outlives a killed launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys

from pipeline.images import heap

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(launcher: int) -> str:
    """Returns the shell command for a worker of the launcher with this process id."""
    # Without `exec` the shell in between would be the parent, and would survive the launcher.
    return f"exec {sys.executable} -m beam_jobs.worker {launcher}"


def kill_all(launcher: int) -> None:
    """Kills the launcher's workers. Beam keeps its handles to them to itself and would wait for them to finish."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            if b"beam_jobs.worker" in arguments and str(launcher).encode() in arguments:
                os.kill(int(name), signal.SIGKILL)


def die_with(launcher: int) -> None:
    """Ends this process when the launcher's thread that started it ends, however that comes about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        sys.exit(1)  # it died before the line above


def main() -> None:
    die_with(int(sys.argv[1]))
    heap.give_back()
    heap.collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, which ends this process
    logging.disable(logging.CRITICAL)  # errors reach the launcher as exceptions
    from apache_beam.runners.worker import sdk_worker_main

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - Beam prints every exception besides passing it on
    sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main()
