"""Tests what signals do to a run, by real ones."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import tensorflow as tf

from pipeline.command import TryAgainError
from trainer.devices import notices
from trainer.devices.stopping import listening

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_means_afterwards_what_it_did_before(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with listening(on_cloud=False) as wishes:
        assert not wishes.stop
        os.kill(os.getpid(), number)
        assert wishes.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(one) for one in SIGNALS] == before


WRITING = """
import logging, sys
from pipeline.log_lines import LogLines
from trainer.devices.stopping import listening

logging.getLogger().addHandler(LogLines())
with listening(on_cloud=False, grace=60) as wishes:
    print("ready", flush=True)
    while not wishes.stop:
        logging.warning("x" * 50_000)
"""


def test_a_line_that_is_being_written_is_finished_before_the_signal_is_told():
    """Streams refuse what a handler writes while it has interrupted another writing."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # until the pipe is full, and the line that it is writing waits for a reader
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 0, said[-5:]
    told = [line for line in said if "SIGTERM: saving the state and stopping" in line]
    assert len(told) == 1
    assert all(line.endswith(": " + "x" * 50_000) for line in said if line not in told)


def test_where_nothing_is_to_be_saved_a_signal_ends_the_block():
    def stopped():
        with wishes.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("goes on")

    with listening(on_cloud=False) as wishes, pytest.raises(TryAgainError, match="stopped on request"):
        stopped()


@pytest.mark.parametrize("place", ["traced", "called", "called in a graph"])
def test_it_ends_so_too_where_tensorflow_runs_python(place):
    """TensorFlow makes errors of its own of those that are raised there, or tells where they come from."""

    def stopped(value):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return value

    def calling(value):
        return tf.numpy_function(stopped, [value], tf.float32)

    function = {"traced": tf.function(stopped), "called": calling, "called in a graph": tf.function(calling)}[place]
    with listening(on_cloud=False) as wishes, pytest.raises(TryAgainError, match="^stopped"), wishes.at_once():
        function(1.0)


def test_what_was_wished_before_ends_the_block_where_it_begins():
    with listening(on_cloud=False) as wishes:
        wishes.on_notice(notices.PREEMPTED)
        with pytest.raises(TryAgainError), wishes.at_once():
            pytest.fail("goes on")


def test_a_notice_of_maintenance_saves_once_and_stops_nothing():
    with listening(on_cloud=False) as wishes:
        wishes.on_notice(notices.MAINTENANCE)
        assert [wishes.save(), wishes.save(), wishes.stop] == [True, False, False]


def test_another_thread_runs_without_signals():
    found = []

    def run():
        with listening(on_cloud=False) as wishes, wishes.at_once():
            found.append((wishes.stop, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


# It releases the interpreter's lock, and looks at no signal: as TensorFlow's compilers do.
COMPILER = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


# It ends as the trainer does where the interpreter is reached in time.
PROGRAM = """
import time
from pipeline.command import TryAgainError
from trainer.devices.stopping import listening

with listening(on_cloud=False, grace=0.5) as wishes:
    try:
{body}
    except TryAgainError as error:
        wishes.end(error)
{afterwards}
"""


def _run(body: str, *, afterwards: str = "") -> subprocess.Popen:
    """Runs Python code that has `wishes` with a short grace, and prints "ready" when it is to be stopped."""
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8), afterwards=afterwards)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("block", ["wishes.at_once()", "open('/dev/null')"])
def test_a_process_that_python_cannot_reach_is_ended(number, block):
    process = _run(f"with {block}:\n    print('ready', flush=True)\n    {COMPILER}")
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert re.search("^error: stopped on request; what was saved before is kept, .*$", errors, re.MULTILINE)
    assert "Traceback" not in errors


def test_what_is_being_saved_is_saved_in_any_thread(tmp_path):
    process = _run(f"""
        import pathlib, threading
        def save():
            with wishes.saving():
                print('ready', flush=True)
                time.sleep(2)
                pathlib.Path({str(tmp_path / "saved")!r}).touch()
        threading.Thread(target=save).start()
        {COMPILER}
    """)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert (tmp_path / "saved").exists()


def test_a_run_that_saves_in_time_is_not_ended():
    process = _run(
        """
        print('ready', flush=True)
        while not wishes.stop:
            time.sleep(0.01)
        """,
        afterwards="time.sleep(1); print('goes on')",
    )
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "goes on\n")
    assert "saving the state and stopping" in errors
