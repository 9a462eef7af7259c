"""Follows a process with all its descendants, as Linux's /proc shows them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Sequence

_SECONDS_BETWEEN_LOOKS = 0.05


def process_tree(root: int) -> list[int]:
    """Lists the process ids of `root` and its descendants."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = pathlib.Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def peak_bytes(command: Sequence[str]) -> int:
    """Runs a command; returns the largest sum of its processes' resident memory, looked at 20 times a second.

    Counts shared pages once a process.

    Raises:
      RuntimeError: the command failed; with the end of what it printed.
    """
    page, peak = os.sysconf("SC_PAGE_SIZE"), 0
    with tempfile.TemporaryFile("w+") as printed:  # not a pipe, which somebody would have to empty
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            total = 0
            for pid in process_tree(process.pid):
                with contextlib.suppress(OSError):
                    total += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            peak = max(peak, total)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        printed.seek(0)
        output = printed.read()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{output[-2000:]}")
    return peak
