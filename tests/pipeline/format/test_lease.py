"""Tests that a lease lets one process at a time through, on disks and in stores, and outlives whoever was killed."""

import subprocess
import sys
import time
import uuid

import pytest

from pipeline.format import lease, storage

# Adds to a counter by reading and writing it, which loses what others add in between.
ADDER = """
import sys, time
from pipeline.format import lease, storage
root, times = sys.argv[1], int(sys.argv[2])
storage.exists(root)  # connects
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    with lease.held(storage.join(root, "lease")):
        count = int(storage.read_text(storage.join(root, "count")))
        time.sleep(0.01)
        storage.write_atomically(storage.join(root, "count"), str(count + 1))
"""
HOLDER = """
import sys, time
from pipeline.format import lease
with lease.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "gcs", "s3"])
def root(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return storage.join(request.getfixturevalue(request.param), uuid.uuid4().hex)


def test_of_several_processes_one_at_a_time_goes_on(root):
    storage.write_atomically(storage.join(root, "count"), "0")
    command = [sys.executable, "-c", ADDER, root, "5"]
    adders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for adder in adders:
        assert adder.stdout.readline() == "ready\n"
    for adder in adders:
        adder.stdin.write("go\n")
        adder.stdin.flush()
    for adder in adders:
        adder.communicate(timeout=60)
        assert adder.returncode == 0
    assert storage.read_text(storage.join(root, "count")) == "15"
    assert not storage.exists(storage.join(root, "lease"))


def test_who_was_killed_holds_it_no_longer_than_is_believed(tmp_path):
    path = str(tmp_path / "lease")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    start = time.monotonic()
    with lease.held(path, seconds=1.0):
        assert time.monotonic() - start >= 1.0
    assert not storage.exists(path)


def test_an_error_in_the_block_gives_it_back(tmp_path):
    path = str(tmp_path / "lease")
    with pytest.raises(ZeroDivisionError), lease.held(path):
        _ = 1 / 0
    assert not storage.exists(path)


def test_who_lost_it_takes_it_from_nobody(tmp_path):
    path = str(tmp_path / "lease")
    with lease.held(path):
        storage.write_atomically(path, "another's")
    assert storage.read_text(path) == "another's"
