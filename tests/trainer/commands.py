"""Runs trainer.main in processes of its own, as a user does, and kills them."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from tests.trainer.runs import SMALL

ROOT = pathlib.Path(__file__).resolve().parents[2]


_ON_TWO_CPUS = "from tests import two_cpus; import runpy; runpy.run_module('trainer.main', run_name='__main__')"


def command(*flags, module="trainer.main", replicas=1):
    program = ["-m", module] if replicas == 1 else ["-c", _ON_TWO_CPUS, "--strategy=mirrored"]
    return [sys.executable, *program, *map(str, flags)]


def run(*flags, module="trainer.main", replicas=1):
    whole = command(*flags, module=module, replicas=replicas)
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)


def training_flags(data, workdir, *more):
    settings = [f"--set={setting}" for setting in (*SMALL, "eval_centre=0.8", "precision=bfloat16")]
    return [f"--data={data.path}", "--recipe=quick", f"--workdir={workdir}", *settings, *more]


def best_weights(workdir):
    with np.load(workdir / "checkpoints" / "best.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def _wait_for_a_checkpoint_write(process, directory):
    """Returns as soon as TensorFlow has made a file of a new checkpoint, under whatever temporary name."""

    def names():
        return set(os.listdir(directory)) if directory.exists() else set()

    before = names()
    while process.poll() is None and not {name for name in names() - before if name.startswith("ckpt")}:
        pass


def kill_and_rerun(flags, *, kills, seed, replicas=1):
    """Starts a run of trainer.main and kills it (SIGKILL) `kills` times, then lets it end.

    Every second time at a random moment of its training, else while it writes a checkpoint or just after.
    """
    rng = random.Random(seed)
    (workdir,) = (pathlib.Path(flag.removeprefix("--workdir=")) for flag in flags if flag.startswith("--workdir="))
    whole = command(*flags, replicas=replicas)
    for number in range(kills):
        with subprocess.Popen(whole, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            for line in process.stderr:
                if b"phase " in line:
                    break
            if number % 2:
                _wait_for_a_checkpoint_write(process, workdir / "checkpoints" / "state")
                time.sleep(rng.choice([0, 0, 0.001, 0.003]))
            else:
                time.sleep(rng.uniform(0, 6))
            process.send_signal(signal.SIGKILL)
    return run(*flags, replicas=replicas)


def assert_same_end(workdir, expected):
    """Asserts that two finished runs hold the same metrics, results and weights, to the bit."""
    for name in ("metrics.jsonl", "metrics.csv", "result.json", "predictions-test.jsonl", "predictions-test.npz"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
    found, wanted = best_weights(workdir), best_weights(expected)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
