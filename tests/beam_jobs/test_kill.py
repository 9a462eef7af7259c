"""Tests builds that are killed, crash or meet: nothing half done shows, and the rerun ends byte-identical."""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from pipeline.format.manifest import current_version, open_dataset
from tests.beam_jobs.image_folders import command, files_of, make_folder, run_build, run_command

_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
_ALONE = ("--direct_running_mode=in_memory",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("in") / "photos"
    make_folder(root, images=150)
    return root


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> dict[str, bytes]:
    return files_of(run_build(folder, tmp_path_factory.mktemp("out")).directory)


def _arguments(process: int) -> list[bytes]:
    """Reads a process's command line; nothing where it has ended."""
    try:
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(process: int) -> int:
    try:
        return int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def workers_of(launcher: int) -> list[int]:
    """Lists the process ids of the launcher's workers, then those of its and their decoders."""
    processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    ours = {b"beam_jobs.worker", str(launcher).encode()}
    workers = [process for process in processes if ours <= set(_arguments(process))]
    decoders = [process for process in processes if b"pipeline.images.decoder_child" in _arguments(process)]
    forking = [process for process in decoders if _parent(process) in (launcher, *workers)]
    return [*workers, *forking, *(process for process in decoders if _parent(process) in forking)]


def still_there(processes: list[int]) -> list[int]:
    """Waits for processes to end; lists those that do not."""
    end = time.monotonic() + 5
    while time.monotonic() < end and any(map(_arguments, processes)):
        time.sleep(0.05)
    return [process for process in processes if any(_arguments(process))]


def start(folder: pathlib.Path, output: pathlib.Path, mode=_PROCESSES) -> subprocess.Popen[str]:
    return subprocess.Popen(command(folder, output, *mode), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_it_works(process: subprocess.Popen[str], output: pathlib.Path) -> None:
    """Waits for the first images to be inspected."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if any(path.is_file() for path in output.glob(".build/findings/*/part-*")):
            return
        time.sleep(0.01)
    pytest.fail(f"the build did not get going: {process.communicate(timeout=5)}")


def check_nothing_half_done_shows(output: pathlib.Path, expected: dict[str, bytes]) -> None:
    for manifest in output.glob("versions/*/manifest.json"):
        assert files_of(manifest.parent) == expected
    if current_version(output):
        open_dataset(output)


def kill_and_rerun(folder, output, expected, *, mode, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    start_time = time.monotonic()
    whole = run_command(folder, output.with_name("timed"), *mode)
    seconds = time.monotonic() - start_time
    assert whole.returncode == 0, whole.stderr
    for _ in range(kills):
        process = start(folder, output, mode)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.communicate()
        check_nothing_half_done_shows(output, expected)
    last = run_command(folder, output, *mode)
    assert last.returncode == 0, last.stderr
    assert files_of(output / "versions/1.0.0") == expected
    assert sorted(os.listdir(output / "versions")) == ["1.0.0"]
    assert current_version(output) == "1.0.0"
    assert not list(output.rglob("*.tmp"))


@pytest.mark.parametrize("mode", [_ALONE, pytest.param(_PROCESSES, marks=pytest.mark.slow)])
def test_killed_at_random_moments(folder, expected, tmp_path, mode):
    kill_and_rerun(folder, tmp_path / "out", expected, mode=mode, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [_ALONE, _PROCESSES])
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_at_twenty_random_moments(folder, expected, tmp_path, seed, mode):
    kill_and_rerun(folder, tmp_path / "out", expected, mode=mode, kills=4, seed=seed)


@pytest.mark.parametrize(
    ("number", "returncode", "message"),
    [
        (signal.SIGTERM, 75, "error: terminated; run the same command again to continue\n"),
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.slow),
        pytest.param(
            signal.SIGINT, 130, "interrupted; run the same command again to continue\n", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("mode", [_ALONE, pytest.param(_PROCESSES, marks=pytest.mark.slow)])
def test_a_signal_ends_the_build_at_once_with_all_its_workers(folder, tmp_path, number, returncode, message, mode):
    process = start(folder, tmp_path / "out", mode)
    until_it_works(process, tmp_path / "out")
    workers = workers_of(process.pid)
    assert len(workers) >= (2 if mode is _ALONE else 4)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (returncode, message)
    assert still_there(workers) == []


@pytest.mark.slow
def test_a_dead_worker_ends_the_build_in_one_line(folder, tmp_path):
    process = start(folder, tmp_path / "out")
    until_it_works(process, tmp_path / "out")
    workers = workers_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75
    assert stderr.startswith("error: a worker process died")
    assert stderr.count("\n") == 1
    assert still_there(workers) == []


@pytest.mark.parametrize("same", [pytest.param(True, marks=pytest.mark.slow), False])
def test_two_builds_at_once_end_as_one_version_or_as_two(folder, tmp_path, expected, same):
    """Each is a process; with equal input and flags they make one version together, otherwise one each."""
    out = tmp_path / "out"
    flags = [(), ()] if same else [(), ("--seed=3",)]
    both = [start(folder, out, (*_ALONE, *more)) for more in flags]
    for process in both:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert sorted(os.listdir(out / "versions")) == (["1.0.0"] if same else ["1.0.0", "2.0.0"])
    assert current_version(out) == ("1.0.0" if same else "2.0.0")
    found = []
    for version in (out / "versions").iterdir():
        files, manifest = files_of(version), open_dataset(version).manifest
        shards = {name: data for name, data in files.items() if ".tfrecord-" in name}
        listed = {shard.name: shard.sha256 for part in manifest.splits.values() for shard in part}
        assert {name: hashlib.sha256(data).hexdigest() for name, data in shards.items()} == listed
        assert not [name for name in files if name.endswith(".tmp")]
        found.append(shards)
    assert {name: data for name, data in expected.items() if ".tfrecord-" in name} in found
