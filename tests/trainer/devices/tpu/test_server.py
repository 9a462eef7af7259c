"""Tests a TPU of two hosts: real servers and a real coordinator on loopback, see `tpu_hosts`, and what ends them."""

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline import dataset
from pipeline.augment.config import AugmentConfig
from tests import datasets
from tests.clouds import free_port
from tests.trainer.tpu_hosts import BATCH, CORES
from trainer.devices.sockets import answers, wait_for_all

ROOT = pathlib.Path(__file__).resolve().parents[4]
SECONDS = 120  # for what takes some ten on a quiet machine
LEAD = """
import sys, time
from pipeline.command import CommandError
from trainer.devices.tpu.server import beside, watched
try:
    with beside(0, sys.argv[1:]), watched(sys.argv[1:]):
        print("ready", flush=True)
        time.sleep(600)
except CommandError as error:
    sys.exit(f"error: {error}")
"""
SERVE = """
import sys
from trainer.devices.tpu import server
server._RESTART_SECONDS = 2
server.serve(1, sys.argv[1:])
print("the first host is gone", flush=True)
"""


@contextlib.contextmanager
def started(*commands):
    """Starts Python with these arguments each, in pipes; ends what is left of them."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def two_addresses():
    return [f"localhost:{free_port()}" for _ in range(2)]


def said_before_waiting(process):
    """Returns what the process tells until it says that it waits."""
    said = {}
    for line in process.stdout:
        said |= json.loads(line)
        if "waiting" in said:
            return said
    raise AssertionError(process.stderr.read()[-3000:])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {"train": datasets.coloured_records(100, classes=3, seed=0)}
    return datasets.write_dataset(tmp_path_factory.mktemp("data"), splits, ["red", "green", "blue"])


def test_two_hosts_feed_save_and_trace_as_one_until_one_is_killed(data, tmp_path):
    addresses = two_addresses()
    module = ["-m", "tests.trainer.tpu_hosts"]
    servers = [[*module, "server", str(number), *addresses] for number in range(2)]
    with started(*servers, [*module, "train", str(data.path), str(tmp_path), *addresses]) as (_, second, coordinator):
        said = said_before_waiting(coordinator)
        assert (said["describe"], said["machines"]) == (f"{2 * CORES} replicas on TPU", 2)
        assert said["elsewhere"]
        for devices in (said["images_on"], said["variable_on"], said["resident_on"]):
            assert [device.split("/")[3] for device in devices] == ["task:0"] * CORES + ["task:1"] * CORES
        one_host = list(
            dataset.train_dataset(
                data, "train", height=32, width=32, preprocess="unit", augment=AugmentConfig(flip=True, shift=0.1),
                seed=0, epoch=0, global_batch_size=BATCH,
            )
        )  # fmt: skip
        assert [np.concatenate(parts).tolist() for parts in said["labels"]] == [
            batch["label"].numpy().tolist() for batch in one_host
        ]
        shares = [np.split(batch["image"].numpy(), 2 * CORES) for batch in one_host]
        expected = [[share.sum(dtype=np.float64) for share in batch] for batch in shares]
        np.testing.assert_allclose(said["sums"], expected, rtol=1e-4)
        np.testing.assert_allclose(said["resident_sums"], expected, rtol=1e-4)
        assert said["traced"] > 20
        assert (said["progress"], said["restored"], said["best"]) == ({"phase": 0, "step": 3}, True, True)
        second.kill()
        _, errors = coordinator.communicate(timeout=SECONDS)
        assert coordinator.returncode == 75
        assert f"error: the TPU's host at {addresses[1]} is gone" in errors
        assert "Traceback" not in errors


@pytest.mark.slow
def test_the_others_serve_until_the_first_host_is_gone():
    addresses = two_addresses()
    with started(["-c", SERVE, *addresses], ["-c", LEAD, *addresses]) as (second, first):
        assert first.stdout.readline() == "ready\n", first.stderr.read()[-3000:]
        assert wait_for_all(addresses, seconds=0) == []
        time.sleep(2)
        assert second.poll() is None
        first.kill()
        assert second.communicate(timeout=SECONDS)[0] == "the first host is gone\n"
        assert second.returncode == 0
        assert not any(map(answers, addresses))  # the first one's own server, too, is gone


@pytest.mark.slow
def test_a_host_that_is_stopped_ends_all_with_75():
    addresses = two_addresses()
    with started(["-c", SERVE, *addresses], ["-c", LEAD, *addresses]) as (second, first):
        assert first.stdout.readline() == "ready\n", first.stderr.read()[-3000:]
        second.send_signal(signal.SIGTERM)
        assert "stopped on request" in second.communicate(timeout=SECONDS)[1]
        errors = first.communicate(timeout=SECONDS)[1]
        assert (second.returncode, first.returncode) == (75, 75)
        assert f"the TPU's host at {addresses[1]} is gone" in errors


@pytest.mark.slow
def test_a_port_that_is_taken_is_a_matter_of_trying_again():
    with socket.create_server(("localhost", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with started(["-c", LEAD, address]) as (late,):
            errors = late.communicate(timeout=SECONDS)[1]
            assert late.returncode == 1
            assert f"cannot listen at {address}" in errors
            assert "error: the TensorFlow server of this host ended with code 1" in errors
