"""Tests that TensorFlow's own gs:// client reads what the builder wrote into a bucket, and writes checkpoints there."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import uuid

import pytest

from pipeline.format import storage
from tests.beam_jobs.image_folders import make_folder, run_command

_HOSTS = ("storage.googleapis.com", "www.googleapis.com")
_FRONT = pathlib.Path(__file__).with_name("gcs_front.py")
_LISTED = """
import sys
import tensorflow as tf
print(*sorted(tf.io.gfile.listdir(sys.argv[1])))
"""


def openssl(folder: pathlib.Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def inside(gcs, tmp_path):
    """Runs commands for which Google's storage is the emulated one: names, certificates and all."""
    tools = ("openssl", "unshare", "mount")
    if sys.platform != "linux" or os.geteuid() or not all(map(shutil.which, tools)):
        pytest.skip("needs root on Linux, openssl and util-linux")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("root may not make namespaces here")
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", 443)):
            pytest.skip("something listens on 127.0.0.1:443")
    key = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        tmp_path, *key, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a CA of the tests"
    )
    openssl(tmp_path, *key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={_HOSTS[0]}")
    (tmp_path / "names").write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in _HOSTS))
    signed = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl(tmp_path, *signed, "-extfile", "names", "-out", "server.pem")
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {' '.join(_HOSTS)}\n")
    port = os.environ["STORAGE_EMULATOR_HOST"].rpartition(":")[2]
    front = subprocess.Popen([sys.executable, _FRONT, tmp_path / "server.pem", tmp_path / "server.key", port])
    environment = os.environ | {"CURL_CA_BUNDLE": str(tmp_path / "ca.pem"), "NO_GCE_CHECK": "true"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        full = ["unshare", "--mount", "bash", "-c", script, str(tmp_path / "hosts"), *command]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=900, env=environment)

    try:
        end = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", 443)):
                    break
            assert front.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield run
    finally:
        front.kill()
        front.wait()


def below(folder: str) -> list[str]:
    """Lists the paths of all files below a folder of a store."""
    found = []
    for entry in storage.list_folder(folder):
        path = f"{folder}/{entry.name}"
        found += below(path) if entry.is_folder else [path]
    return found


@pytest.mark.slow
def test_a_run_reads_its_data_from_a_bucket_and_keeps_its_checkpoints_there(inside, gcs, tmp_path):
    root = f"{gcs}/{uuid.uuid4().hex}"
    make_folder(tmp_path / "in", images=40)
    built = run_command(tmp_path / "in", f"{root}/data")
    assert built.returncode == 0, built.stderr
    version = f"{root}/data/versions/1.0.0"
    listed = inside(sys.executable, "-c", _LISTED, version)
    assert listed.returncode == 0, listed.stderr[-2000:]
    assert listed.stdout.split() == sorted(entry.name for entry in storage.list_folder(version))
    command = [sys.executable, "-m", "trainer.main", f"--data={root}/data", f"--workdir={root}/run"]
    options = ["--recipe=cifar10_cnn", "--set=phases.0.duration=2ep"]
    trained = inside(*command, *options)
    assert trained.returncode == 0, trained.stderr[-2000:]
    names = {entry.name for entry in storage.list_folder(f"{root}/run")}
    assert {"checkpoints", "config.json", "result.json", "_SUCCESS"} <= names
    assert any(name.endswith(".index") for name in below(f"{root}/run/checkpoints"))
    assert json.loads(storage.read_text(f"{root}/run/result.json"))
    again = inside(*command, *options)
    assert again.returncode == 0, again.stderr[-2000:]


_PASS = """
input: {here}/in
data: {root}/data
runs: {root}/runs
models: {root}/models
recipe: cifar10_cnn
settings: {{phases.0.duration: 4ep}}
build: {{splits: "train:0.5,validation:0.2,test:0.3"}}
gate: {{margin: 0.5, minimum_accuracy: 0}}
"""


@pytest.mark.slow
def test_a_whole_pass_of_retraining_lies_in_the_bucket(inside, gcs, tmp_path):
    root = f"{gcs}/{uuid.uuid4().hex}"
    make_folder(tmp_path / "in", images=60)
    (tmp_path / "retrain.yaml").write_text(_PASS.format(here=tmp_path, root=root))
    command = [sys.executable, "-m", "retrain.main", f"--config={tmp_path / 'retrain.yaml'}"]
    first = inside(*command)
    assert first.returncode == 0, first.stdout + first.stderr[-3000:]
    assert f"promoted to {root}/models/1" in first.stdout
    sums = storage.read_text(f"{root}/models/1/SHA256SUMS")
    names = [line.split("  ")[1] for line in sums.splitlines()]
    assert {"model.tflite", "forms.json", "golden/golden.json", "saved_model/saved_model.pb"} <= set(names)
    assert inside(*command).returncode == 99

    listed = inside(sys.executable, "-m", "retrain.models", "verify", f"--models={root}/models")
    assert listed.returncode == 0, listed.stderr
    make_folder(tmp_path / "in", images=20, first=60)  # more photos
    third = inside(*command)
    assert third.returncode in (0, 99), third.stdout + third.stderr[-3000:]
    assert "nothing changed" not in third.stdout
    asked = inside(sys.executable, "-m", "trainer.predict", f"--model={root}/models/1", str(tmp_path / "in" / "cat"))
    assert asked.returncode == 0, asked.stderr
    assert len(asked.stdout.splitlines()) == 81
