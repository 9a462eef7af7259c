"""Tests that two real processes on loopback train the same model as one process, also when one of them is killed."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline.format.manifest import open_dataset
from tests.trainer.runs import SMALL, SOLVED

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Dropout draws another mask for every replica, so without it the number of replicas changes the rounding only.
# SGD, because Adam turns a difference in the last bit of a gradient near zero into a whole step.
SETTINGS = (*SMALL, "head.dropout=0", "phases.1.duration=10ep", "phases.0.lr_max=0.1", "phases.1.lr_max=0.05",
            "optimizer.name=sgd", "ema_decay=0.9", "optimizer.clip_norm=1")  # fmt: skip
SECONDS_TO_NOTICE = 90  # of which TensorFlow needs about five; the rest is for a busy machine
TABLES = ("metrics.jsonl", "metrics.csv", "result.json", "predictions-validation.jsonl", "predictions-test.jsonl")

pytestmark = pytest.mark.slow


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("localhost", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _command(data, workdir, *more):
    settings = [f"--set={setting}" for setting in SETTINGS]
    flags = [f"--data={data.path}", "--recipe=quick", f"--workdir={workdir}", *settings, *more]
    return [sys.executable, "-m", "trainer.main", *flags]


def _start_two(data, workdir, logs, *more, always=(), directories=(ROOT, ROOT)):
    """Starts both workers, each in its directory; their output goes to logs/0 and logs/1."""
    logs.mkdir(parents=True, exist_ok=True)
    workers = [f"localhost:{port}" for port in _free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        with (logs / str(index)).open("w") as log:
            processes.append(
                subprocess.Popen(
                    _command(data, workdir, *always, *more[index : index + 1]),
                    cwd=directories[index],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(ROOT),
                        "TF_CPP_MIN_LOG_LEVEL": "2",
                        "TF_CONFIG": json.dumps(config),
                    },
                )
            )
    return processes


def _run_two(data, workdir, logs, *more, **how):
    processes = _start_two(data, workdir, logs, *more, **how)
    return [process.wait(timeout=400) for process in processes]


def _weights(workdir):
    with np.load(workdir / "checkpoints" / "best.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.fixture(scope="module")
def together(tiny_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("together")
    processes = _start_two(tiny_data, root / "run", root / "logs")
    assert processes[1].wait(timeout=400) == 0, (root / "logs" / "1").read_text()
    assert (root / "run" / "_SUCCESS").exists()  # the other worker has waited for the chief's export and report
    assert processes[0].wait(timeout=60) == 0, (root / "logs" / "0").read_text()
    return root


def test_two_workers_equal_one_process_with_the_same_global_batch(together, tiny_data, tmp_path):
    alone = tmp_path / "alone"
    result = subprocess.run(_command(tiny_data, alone), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    _assert_same_run(together / "run", alone)


def _assert_same_run(run, alone, *, atol=1e-5, of_loss=1e-4):
    expected, found = _weights(alone), _weights(run)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=atol, err_msg=name)
    for a, b in zip(*((r / "metrics.jsonl").read_text().splitlines() for r in (alone, run)), strict=True):
        one, two = json.loads(a), json.loads(b)
        assert two.pop("loss") == pytest.approx(one.pop("loss"), rel=of_loss, abs=1e-6)  # float32 near 1
        assert one == two
    for split in ("validation", "test"):  # every example once, in file order
        rows = [
            [json.loads(line) for line in (r / f"predictions-{split}.jsonl").read_text().splitlines()]
            for r in (alone, run)
        ]
        for one, two in zip(*rows, strict=True):
            assert two.pop("probability") == pytest.approx(one.pop("probability"), abs=of_loss)
            assert one == two


def test_two_workers_have_the_head_that_the_chief_solves_for(tiny_data, tmp_path):
    solved = [f"--set={assignment}" for assignment in (*SOLVED, "phases.1.duration=2ep")]
    alone = tmp_path / "alone"
    result = subprocess.run(
        [*_command(tiny_data, alone), *solved], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    processes = _start_two(tiny_data, tmp_path / "run", tmp_path / "logs", always=solved)
    codes = [process.wait(timeout=400) for process in processes]
    assert codes == [0, 0], [(tmp_path / "logs" / str(index)).read_text() for index in range(2)]
    # Features of other batches are rounded otherwise, and so is where the minimiser ends.
    _assert_same_run(tmp_path / "run", alone, atol=1e-4, of_loss=0.01)


def test_only_the_chief_writes_and_prints_the_result(together):
    writers = {file.name.split(".")[-3] for file in (together / "run" / "events").iterdir()}  # process numbers
    assert len(writers) == 1
    logs = [(together / "logs" / str(index)).read_text() for index in range(2)]
    assert "this is worker 0 of 2" in logs[0]
    assert "2 replicas on CPU, 2 workers" in logs[0]
    assert "test: accuracy" in logs[0]
    assert "this is worker 1 of 2" in logs[1]
    assert "test: accuracy" not in logs[1]


@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)])
def test_one_worker_goes_then_both_end_with_75_and_the_rerun_in_the_same_place(
    together, tiny_data, tmp_path, victim, number
):
    processes = _start_two(tiny_data, tmp_path / "run", tmp_path / "first")
    log = tmp_path / "first" / "0"
    while "phase all" not in log.read_text():
        assert all(process.poll() is None for process in processes), log.read_text()
        time.sleep(0.1)
    time.sleep(random.Random(victim).uniform(0, 3))
    processes[victim].send_signal(number)
    codes = [process.wait(timeout=SECONDS_TO_NOTICE) for process in processes]
    assert codes[1 - victim] == 75
    assert codes[victim] == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    survivor = (tmp_path / "first" / str(1 - victim)).read_text()
    # Told to stop where a step is being made, the one ends without the other.
    messages = {"another machine is gone"} | ({"the state is saved"} if number == signal.SIGTERM else set())
    assert any(message in survivor for message in messages), survivor
    assert "Traceback" not in survivor
    assert not (tmp_path / "run" / "_SUCCESS").exists()

    assert _run_two(tiny_data, tmp_path / "run", tmp_path / "second") == [0, 0]
    assert "resuming phase all at step" in (tmp_path / "second" / "1").read_text()
    for name in TABLES:
        assert (tmp_path / "run" / name).read_bytes() == (together / "run" / name).read_bytes(), name
    found, wanted = _weights(tmp_path / "run"), _weights(together / "run")
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_workers_with_other_flags_are_refused_on_both(tiny_data, tmp_path):
    codes = _run_two(tiny_data, tmp_path / "run", tmp_path / "logs", "--seed=0", "--seed=1")
    logs = [(tmp_path / "logs" / str(index)).read_text() for index in range(2)]
    # Whoever sees it first leaves, and the other one may see only that.
    assert set(codes) <= {64, 75}
    assert 64 in codes
    assert any("flags and dataset must be the same for all workers" in log for log in logs)
    assert not any("Traceback" in log for log in logs)


def test_a_workdir_that_the_workers_do_not_share_is_refused(together, tiny_data, tmp_path):
    """The chief resumes, the other one has nothing to resume from."""
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run(["cp", "-r", together / "run" / "checkpoints", together / "run" / "config.json", run], check=True)
    logs = tmp_path / "logs"
    codes = _run_two(tiny_data, run, logs, "--profile", f"--workdir={tmp_path / 'elsewhere'}")
    text = "".join((logs / str(index)).read_text() for index in range(2))
    assert set(codes) <= {64, 75}
    assert "--run, one folder on gs:// or NFS with the same checkpoints, must be the same" in text
    assert "Traceback" not in text


def test_a_worker_that_waits_for_the_others_ends_on_sigterm(tiny_data, tmp_path):
    processes = _start_two(tiny_data, tmp_path / "run", tmp_path / "logs", "--seed=0", "--seed=no_number")
    assert processes[1].wait(timeout=60) == 64
    log = tmp_path / "logs" / "0"
    while "waiting for the others" not in log.read_text():
        assert processes[0].poll() is None, log.read_text()
        time.sleep(0.1)
    time.sleep(1)
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait(timeout=30) == 75
    assert "run the same command again" in log.read_text()


def _damage(data, *places):
    """Changes a byte of the first record of each shard, given as (split, number)."""
    for split, number in places:
        shard = pathlib.Path(data.shard_paths(split)[number])
        content = bytearray(shard.read_bytes())
        content[100] ^= 0xFF
        shard.write_bytes(bytes(content))


def _copy(data, root):
    shutil.copytree(data.path, root)
    return open_dataset(root)


def test_damaged_records_are_left_out_alike_by_two_workers_and_one(tiny_data, tmp_path):
    data = _copy(tiny_data, tmp_path / "data")
    _damage(data, ("train", 0), ("train", 1), ("test", 0))
    alone, run, logs = tmp_path / "alone", tmp_path / "run", tmp_path / "logs"
    command = _command(data, alone, "--skip_bad_records")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    codes = _run_two(data, run, logs, "--skip_bad_records", "--skip_bad_records")
    assert codes == [0, 0], [(logs / str(index)).read_text() for index in range(2)]
    assert all("left out 3 damaged records" in (logs / str(index)).read_text() for index in range(2))
    _assert_same_run(run, alone, atol=1e-4)  # on these images a unit at the corner of its ReLU falls on either side
    explained = {"explanations.npz"}  # by one machine only
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()} - explained


@pytest.mark.parametrize("skip", [False, True])
def test_a_record_that_is_damaged_on_one_host_only_ends_both(tiny_data, tmp_path, skip):
    """Each host has its own copy of the data under the same path."""
    hosts = [tmp_path / "one", tmp_path / "two"]
    copies = [_copy(tiny_data, host / "data") for host in hosts]
    _damage(copies[1], ("train", 1))
    if skip:  # as many images are left on both, but others
        _damage(copies[0], ("train", 0))
    data = dataclasses.replace(copies[0], path="data")
    flag = "--skip_bad_records" if skip else "--noskip_bad_records"
    codes = _run_two(data, tmp_path / "run", tmp_path / "logs", flag, flag, directories=hosts)
    logs = [(tmp_path / "logs" / str(index)).read_text() for index in range(2)]
    assert "Traceback" not in "".join(logs)
    if skip:  # whoever sees it first leaves, and the other one may see only that
        assert set(codes) <= {64, 75}
        assert 64 in codes
        assert any("the damaged records of --data must be the same for all workers" in log for log in logs)
    else:
        assert codes == [75, 65]
        assert "another machine is gone" in logs[0]
        assert "checksum mismatch" in logs[1]
    assert not (tmp_path / "run" / "_SUCCESS").exists()
