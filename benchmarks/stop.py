"""Measures how soon a run obeys SIGTERM, wherever it is.

    python -m benchmarks.stop --data=DATA --workdir=NEW_FOLDER

The run is started, told to stop after some seconds, and started again, which goes on with it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

from absl import flags

from pipeline.command import ExitCode, UsageError, run_command
from pipeline.format import storage

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "A built dataset.", required=True)
flags.DEFINE_string("recipe", "photos", "What is trained.")
flags.DEFINE_string("workdir", None, "A new folder for the run; removed at the end.", required=True)
flags.DEFINE_list("after", [str(2 + 4 * number) for number in range(13)], "Seconds from start to signal.")


def main(arguments: list[str]) -> None:
    del arguments
    if storage.exists(FLAGS.workdir):
        raise UsageError(f"--workdir={FLAGS.workdir} is there already; give a folder that is not")
    try:
        for after in map(float, FLAGS.after):
            print(_stopped(after), flush=True)
    finally:
        shutil.rmtree(FLAGS.workdir, ignore_errors=True)


def _stopped(after: float) -> str:
    """Runs the trainer, ends it after so many seconds, and says how that went."""
    command = [sys.executable, "-m", "trainer.main"]
    command += [f"--data={FLAGS.data}", f"--recipe={FLAGS.recipe}", f"--workdir={FLAGS.workdir}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(after)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        seconds = time.monotonic() - started
    if process.returncode != ExitCode.AGAIN:
        return f"SIGTERM after {after:g} s: {seconds:.1f} s, exit code {process.returncode}:\n{errors}"
    return f"SIGTERM after {after:g} s: {seconds:.1f} s, {errors.splitlines()[-1]}"


if __name__ == "__main__":
    run_command(main)
