"""Tests the lock against real processes."""

import os
import signal
import subprocess
import sys

import pytest

from pipeline.command import TryAgainError
from pipeline.format.lock import exclusive

HOLD = """
import subprocess, sys
from pipeline.format.lock import exclusive
with exclusive(sys.argv[1]) as lock:
    if sys.argv[2] == "child":
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin, pass_fds=(lock.descriptor,))
        print("held", child.pid, flush=True)
        child.wait()
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold(tmp_path):
    processes = []

    def start(kind="alone"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "models"), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, process.stdout.readline().split()

    yield start
    for process in processes:
        process.kill()
        process.stdin.close()
        process.wait()


def test_second_holder_is_told_who_has_it(tmp_path, hold):
    process, _ = hold()
    with pytest.raises(TryAgainError, match=f"process {process.pid} since"), exclusive(str(tmp_path / "models")):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_lock_dies_with_its_process(tmp_path, hold, number):
    process, _ = hold()
    process.send_signal(number)
    process.wait()
    with exclusive(str(tmp_path / "models")):
        pass


def test_a_child_of_a_killed_holder_still_holds(tmp_path, hold):
    process, (_, child) = hold("child")
    process.kill()
    process.wait()
    with pytest.raises(TryAgainError), exclusive(str(tmp_path / "models")):
        pass
    os.kill(int(child), signal.SIGKILL)
    for _ in range(200):
        try:
            with exclusive(str(tmp_path / "models")):
                return
        except TryAgainError:
            os.sched_yield()
            signal.sigtimedwait([], 0.02)
    pytest.fail("the lock outlived every process that held it")


def test_released_on_exit_also_by_an_exception(tmp_path):
    with pytest.raises(RuntimeError), exclusive(str(tmp_path)):
        raise RuntimeError
    with exclusive(str(tmp_path)) as lock:
        assert os.get_inheritable(lock.descriptor) is False
