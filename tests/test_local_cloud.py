"""Tests scripts/local_cloud.sh for real: up, a program that uses all of it, down without a trace."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests import clouds
from tests.beam_jobs.image_folders import make_folder, run_build

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "scripts" / "local_cloud.sh"


def may_make_namespaces() -> bool:
    probe = ["unshare", "--net", "--mount", "true"]
    return not subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode


def is_running(pid: str) -> bool:
    """Says whether a process is neither gone nor dead and waiting for an init that containers often lack."""
    try:
        return pathlib.Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def script():
    """Runs the script's commands on a cloud of a name of its own."""
    if sys.platform != "linux" or os.geteuid() or not all(map(shutil.which, ("ip", "unshare", "setsid"))):
        pytest.skip("needs root on Linux, iproute2 and util-linux")
    if not may_make_namespaces():
        pytest.skip("root may not make namespaces here")
    if not (SCRIPT.parents[1] / ".venv").exists():
        pytest.skip("the script takes the repository's .venv, which is not there")
    name = f"cloud-{uuid.uuid4().hex[:8]}"
    environment = os.environ | {"LOCAL_CLOUD_NAME": name}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    run.name, run.start = name, start
    yield run
    run("down")


@pytest.mark.slow
def test_up_a_program_and_down(script):
    for tool in ("fake-gcs-server", "prism"):
        clouds.go_tool(tool, build=True)
    pytest.importorskip("gcsfs")
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    assert script("status").stdout == "down\n"
    up = script("up")
    assert up.returncode == 0, up.stderr
    assert "STORAGE_EMULATOR_HOST=" in up.stdout
    assert "run python -m examples.local_cloud" in up.stdout
    assert script("status").stdout.startswith("up: ")
    again = script("up")
    assert again.returncode == 1
    assert again.stderr == "local_cloud.sh: is up already; take it down first\n"

    tried = script("run", "python", "-m", "examples.local_cloud")
    assert tried.returncode == 0, tried.stderr
    counts = "{'be': 2, 'not': 1, 'or': 1, 'to': 2}"
    assert tried.stdout.splitlines() == [
        "gs://bucket/text holds to be or not to be",
        f"gs://bucket/counts, by the worker at localhost:50051: {counts}",
        "s3://bucket/text holds to be or not to be",
        f"s3://bucket/counts, by the worker at localhost:50052: {counts}",
    ]

    servers = subprocess.run(["ip", "netns", "pids", script.name], check=True, capture_output=True, text=True)
    assert len(servers.stdout.split()) >= 5
    assert script("down").returncode == 0
    assert script.name not in subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
    assert script.name not in pathlib.Path("/proc/mounts").read_text()
    assert not pathlib.Path("/run", script.name).exists()
    assert not any(map(is_running, servers.stdout.split()))
    assert script("down").returncode == 0  # nothing left to do


UPLOAD = """
import pathlib, sys
from pipeline.format import storage
root = pathlib.Path(sys.argv[1])
for path in root.rglob("*"):
    if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
        storage.write_atomically(f"{sys.argv[2]}/{path.relative_to(root)}", path.read_bytes())
"""
SPLITS = """
import json, sys
from pipeline.format import storage
print(json.dumps(json.loads(storage.read_text(sys.argv[1]))["splits"]))
"""


THERE = """
import sys
from pipeline.format import storage
root = sys.argv[1]
print(storage.exists(f"{root}/CURRENT"), storage.exists(f"{root}/versions/1.0.0/manifest.json"))
"""
ENGINE = ("--runner=PortableRunner", "--job_endpoint=localhost:8073", "--environment_type=EXTERNAL")


def workers_in(namespace: str) -> list[int]:
    """Lists the processes in which Beam's workers run steps, which their pools start for each job."""
    found = subprocess.run(
        ["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True
    ).stdout.split()
    return [int(pid) for pid in found if b"SdkHarness" in pathlib.Path("/proc", pid, "cmdline").read_bytes()]


@pytest.mark.slow
def test_a_killed_worker_elsewhere_ends_the_build_and_the_next_one_goes_on(script, tmp_path):
    for tool in ("fake-gcs-server", "prism"):
        clouds.go_tool(tool, build=True)
    pytest.importorskip("gcsfs")
    folder = tmp_path / "photos"
    make_folder(folder, images=150)
    manifest = pathlib.Path(run_build(folder, tmp_path / "out").directory, "manifest.json")
    assert script("up").returncode == 0
    assert script("run", "python", "-c", UPLOAD, str(folder), "gs://bucket/photos").returncode == 0
    paths = ("--input=gs://bucket/photos", "--output=gs://bucket/data", "--name=photos")
    command = ("python", "-m", "beam_jobs.build_tfrecords", *paths, *ENGINE, "--environment_config=localhost:50051")
    build = script.start("run", *command)
    while not (workers := workers_in(script.name)):
        assert build.poll() is None, build.communicate()
        time.sleep(0.1)
    time.sleep(4)  # some stages of some twelve seconds
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    _, stderr = build.communicate(timeout=120)
    assert (build.returncode, stderr.count("\n")) == (75, 1), stderr
    assert stderr.startswith("error: the engine gave up: ")
    assert script("run", "python", "-c", THERE, "gs://bucket/data").stdout == "False False\n"
    again = script("run", *command)
    assert again.returncode == 0, again.stderr
    found = script("run", "python", "-c", SPLITS, "gs://bucket/data/versions/1.0.0/manifest.json")
    assert json.loads(found.stdout) == json.loads(manifest.read_text())["splits"]


@pytest.mark.slow
def test_an_engine_and_workers_elsewhere_build_the_same_shards(script, tmp_path):
    for tool in ("fake-gcs-server", "prism"):
        clouds.go_tool(tool, build=True)
    for library in ("gcsfs", "s3fs", "moto"):
        pytest.importorskip(library)
    folder = tmp_path / "photos"
    make_folder(folder)
    manifest = pathlib.Path(run_build(folder, tmp_path / "out").directory, "manifest.json")
    expected = json.loads(manifest.read_text())["splits"]
    assert script("up").returncode == 0
    for bucket, worker in (("gs://bucket", "localhost:50051"), ("s3://bucket", "localhost:50052")):
        sent = script("run", "python", "-c", UPLOAD, str(folder), f"{bucket}/photos")
        assert sent.returncode == 0, sent.stderr
        paths = (f"--input={bucket}/photos", f"--output={bucket}/data", "--name=photos")
        command = ("python", "-m", "beam_jobs.build_tfrecords", *paths, *ENGINE, f"--environment_config={worker}")
        built = script("run", *command)
        assert built.returncode == 0, built.stderr
        found = script("run", "python", "-c", SPLITS, f"{bucket}/data/versions/1.0.0/manifest.json")
        assert json.loads(found.stdout) == expected


def test_says_in_one_line_that_it_needs_root():
    if sys.platform != "linux" or (os.geteuid() == 0 and not shutil.which("setpriv")):
        pytest.skip("needs Linux, and as root setpriv (util-linux) to become somebody else")
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*nobody, "bash", "-s", "up"]  # from stdin: nobody need not be able to read the checkout
    done = subprocess.run(command, check=False, input=SCRIPT.read_text(), capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert done.stderr == "local_cloud.sh: needs root: it makes network and mount namespaces\n"
