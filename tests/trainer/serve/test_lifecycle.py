"""Starts and ends servers, also in the middle of requests, and gives them more clients than they can answer."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import datasets
from tests.trainer.serve.servers import ROOT, serving

HEAD = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n"


def start(*flags, code=""):
    """Runs a server that is expected to end by itself."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "trainer.serve"]
    return subprocess.run(
        [*command, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def large_photo():
    """Makes a photo that takes long to look at."""
    return datasets.jpeg(datasets.smooth_image(np.random.default_rng(1), height=3_000, width=4_000))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give what to serve: python -m trainer.serve RUN/export, or MODELS/champion"),
        (["--model=nowhere"], "nowhere: no exported model there"),
        (["--model=m", "--name=a/b"], "--name=a/b: must be letters, digits"),
        (["--model=gs://b/m", "--watch"], "which has no links"),
        (["--model=m", "--log_share=2"], "log_share"),
        (["--model=m", "--host=no.such.host.invalid"], "--host=no.such.host.invalid --port=8501"),
    ],
)
def test_mistakes_are_told_in_a_line(flags, message):
    done = start(*flags)
    assert done.returncode == 64
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told(exports):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(f"--model={exports / 'one'}", f"--port={port}")
    assert done.returncode == 64
    assert f"error: --host=127.0.0.1 --port={port}: Address already in use; give another" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_extra_is_named():
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "sys.argv = ['serve', '--model=m']\n"
        "runpy.run_module('trainer.serve', run_name='__main__', alter_sys=True)"
    )
    done = start(code=code)
    assert done.returncode == 64
    assert done.stderr == "error: uvicorn is not installed; pip install 'tpu-retraining[serve]'\n"


@pytest.mark.parametrize("sums", [pytest.param(True, marks=pytest.mark.slow), False], ids=["with sums", "without"])
def test_a_damaged_model_is_refused(exports, tmp_path, sums):
    export = tmp_path / "export"
    shutil.copytree(exports / "one", export)
    if not sums:  # as exports of earlier versions
        (export / "SHA256SUMS").unlink()
    model = export / "model.tflite"
    content = bytearray(model.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4_000] = bytes(4_000)
    for damaged in (bytes(content), b"no model"):
        model.write_bytes(damaged)
        done = start(f"--model={export}", "--port=0")
        assert done.returncode == 65
        told = "is not what was published" if sums else r"cannot be loaded; damaged\?|from what it was exported with"
        assert re.search(told, done.stderr)
        assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def server(exports):
    with serving(f"--model={exports / 'one'}", "--client_seconds=1.5", "--max_waiting=4") as running:
        yield running


def test_the_start_says_how_to_ask(server, exports):
    text = "".join(server.lines)
    assert f"3 labels ({exports / 'one' / 'model.tflite'})" in text
    assert re.search(r"^try      curl -F image=@photo.jpg http://127\.0\.0\.1:\d+/predict$", text, re.MULTILINE)


def test_more_than_can_wait_is_503_and_may_come_again(server, large_photo, photos):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(server.ask, "POST", "/predict", large_photo, {"content-type": "image/jpeg"}) for _ in range(16)
        ]
        found = [one.result() for one in asked]
    counts = {status: [one[0] for one in found].count(status) for status in (200, 503)}
    assert sum(counts.values()) == 16
    assert counts[200] >= 4
    assert counts[503] >= 1
    for status, headers, body in found:
        if status == 503:
            assert headers["retry-after"] == "1"
            assert "busy: 4 images are waiting" in json.loads(body)["error"]
    assert server.photo(photos[0])[0] == 200


def test_a_body_that_does_not_come_is_408(server):
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(HEAD % 1_000 + b"x")
        start = time.monotonic()
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert 1 < time.monotonic() - start < 10


def test_a_head_that_does_not_come_ends_the_connection(server):
    connections = [socket.create_connection(server.address, timeout=20) for _ in range(2)]
    connections[1].sendall(b"POST /pre")
    for connection in connections:
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def open_slow(address, count):
    """Opens so many connections and returns them; each has sent the beginning of a request."""
    found = []
    for at in range(count):
        connection = socket.create_connection(address, timeout=30)
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\n" if at % 2 else HEAD % 100_000 + b"\xff\xd8")
        found.append(connection)
    return found


def drip(connections):
    """Sends a byte on each; returns those that the server has not ended."""
    left = []
    for connection in connections:
        try:
            connection.sendall(b"x")
            left.append(connection)
        except OSError:
            connection.close()
    return left


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_slow_clients_neither_stall_the_server_nor_stay(server, photos, count):
    slow = open_slow(server.address, count)
    seconds = []
    deadline = time.monotonic() + 30
    while slow and time.monotonic() < deadline:
        slow = drip(slow)
        start = time.monotonic()
        assert server.photo(photos[0])[0] == 200
        seconds.append(time.monotonic() - start)
        time.sleep(0.1)
    assert not slow, f"{len(slow)} connections are still open"
    assert np.median(seconds) < 0.5
    assert max(seconds) < 5
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200


def test_sigterm_lets_what_is_under_way_be_answered(exports, photos, large_photo):
    with serving(f"--model={exports / 'one'}", "--linger_seconds=1.5") as running:
        uploading = socket.create_connection(running.address, timeout=30)
        uploading.sendall(HEAD % len(photos[0]) + photos[0][:100])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            looked_at = [pool.submit(running.photo, large_photo) for _ in range(4)]
            time.sleep(0.1)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            status, headers, _ = running.ask("GET", "/readyz")
            assert (status, headers["connection"]) == (503, "close")
            assert running.ask("GET", "/healthz")[0] == 200  # whom readiness has not reached yet
            deadline = time.monotonic() + 20
            with contextlib.suppress(ConnectionRefusedError):
                while time.monotonic() < deadline:
                    socket.create_connection(running.address, timeout=5).close()
                    time.sleep(0.1)
            assert time.monotonic() < deadline, "it still listens"
            assert running.process.poll() is None
            uploading.sendall(photos[0][100:])
            assert uploading.recv(100).startswith(b"HTTP/1.1 200")
            uploading.close()
            assert [one.result()[0] for one in looked_at] == [200] * 4
        assert running.process.wait(30) == 0
    assert "Traceback" not in "".join(running.errors)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_idle_server_ends_at_once_and_leaves_no_process(exports, photos, number):
    with serving(f"--model={exports / 'one'}", "--linger_seconds=0") as running:
        running.photo(photos[0])
        children = running.descendants()
        assert len(children) >= 3
        with contextlib.closing(running.connect()) as kept:  # an idle connection is not waited for
            kept.request("GET", "/healthz")
            kept.getresponse().read()
            start = time.monotonic()
            assert running.end(number) == 0
            assert time.monotonic() - start < 5
    assert not [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in "".join(running.errors)


def test_decoders_that_are_killed_are_replaced_and_so_is_what_forks_them(server, photos):
    for killed in (server.descendants()[1:], server.descendants()):
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):  # decoders end with what has forked them
                os.kill(pid, signal.SIGKILL)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert {status for status, _ in pool.map(server.photo, [photos[0]] * 4)} == {200}
