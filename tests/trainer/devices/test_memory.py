"""Tests that freed memory stays with the process; in processes of their own, because it cannot be undone."""

import ctypes
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]

_FAULTS = """
import resource, sys, threading
import numpy as np
from trainer.devices.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
    # What every distributed iterator is made of; TensorFlow 2.21 sets glibc's options itself with the first one.
    import tensorflow as tf
    list(tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec((), tf.int32)))

def step():
    arrays = [np.ones(2 << 20, np.uint8) for _ in range(100)]  # more than one heap of a thread holds

def train():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=train)  # as TensorFlow's: not in the main heap
thread.start()
thread.join()
"""


def _faults(mode):
    command = [sys.executable, "-c", _FAULTS, mode]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.slow
def test_pages_are_not_faulted_in_again_by_every_step():
    assert _faults("keep") < 0.1 * _faults("leave")
