"""A member of the crew (crew.py): reads a configuration, then tasks; answers each with its value or its error."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback

from beam_jobs import heap, worker


def serve(launcher: int) -> None:
    """Answers what comes in on file 0 on file 1, until there is no more of it or the launcher is gone."""
    worker.die_with(launcher)
    heap.give_back()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, which ends this process
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print among the answers
    from beam_jobs.tasks import Tasks

    try:
        tasks = Tasks(pickle.load(requests))
        while True:
            task, arguments = pickle.load(requests)
            try:
                answer = getattr(tasks, task)(*arguments), ""
            except Exception:  # the launcher decides what it means
                answer = None, traceback.format_exc()
            answers.write(pickle.dumps(answer, protocol=5))
            answers.flush()
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve(int(sys.argv[1]))
