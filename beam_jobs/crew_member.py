"""Runs a member of the crew (crew.py): reads a configuration, then tasks; answers each with its value or its error."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback

from beam_jobs import worker
from pipeline.images import heap


def main() -> None:
    worker.die_with(int(sys.argv[1]))
    heap.give_back()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, which ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print among the answers
    from beam_jobs.tasks import Tasks

    try:
        tasks = Tasks(pickle.load(sys.stdin.buffer))
        while True:
            task, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = getattr(tasks, task)(*arguments), ""
            except Exception:  # the launcher decides what it means
                answer = None, traceback.format_exc()
            answers.write(pickle.dumps(answer, protocol=5))
            answers.flush()
    except (EOFError, BrokenPipeError):  # the launcher has no more for us, or is gone
        return


if __name__ == "__main__":
    main()
