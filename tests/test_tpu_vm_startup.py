"""Tests the real start-up script of TPU VMs with a real metadata server; only the trainer is a stand-in."""

import functools
import http.server
import pathlib
import signal
import subprocess
import threading
import time

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "examples" / "tpu_vm_startup.sh"

# Ends with the codes that stand in `codes`, one a call; on SIGTERM with 75, as the trainer does.
TRAINER = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "$@" >> calls
code=$(head -n 1 codes); sed -i 1d codes
trap 'exit 75' TERM
if [[ $code == wait ]]; then touch waiting; while true; do sleep 0.05; done; fi
exit "$code"
"""


@pytest.fixture
def metadata(tmp_path):
    folder = tmp_path / "metadata"
    folder.mkdir()
    (folder / "package").write_text("git+https://example.org/project.git")
    (folder / "flags").write_text("--data=gs://b/d --workdir=gs://b/r")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _start(tmp_path, metadata, codes):
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    (tmp_path / "venv" / ".ready").touch()
    (binaries / "python").write_text(TRAINER)
    (binaries / "python").chmod(0o755)
    (binaries / "codes").write_text("\n".join(codes) + "\n")
    environment = {"PATH": "/usr/bin:/bin", "VENV": str(tmp_path / "venv"), "METADATA_URL": metadata, "PAUSE": "0"}
    return subprocess.Popen(["bash", str(SCRIPT)], env=environment), binaries


@pytest.mark.parametrize(("codes", "expected"), [(["0"], 0), (["75", "75", "0"], 0), (["75", "65"], 65)])
def test_only_75_is_run_again(tmp_path, metadata, codes, expected):
    process, binaries = _start(tmp_path, metadata, codes)
    assert process.wait(timeout=30) == expected
    calls = (binaries / "calls").read_text().splitlines()
    assert calls == ["-m trainer.main --data=gs://b/d --workdir=gs://b/r --tpu=all"] * len(codes)


def test_a_signal_reaches_the_trainer_and_its_exit_code_comes_back(tmp_path, metadata):
    process, binaries = _start(tmp_path, metadata, ["wait", "0"])
    deadline = time.monotonic() + 30
    while not (binaries / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert len((binaries / "calls").read_text().splitlines()) == 1
