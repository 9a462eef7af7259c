"""Starts servers that answer as the stores do, on loopback only: fake-gcs-server for gs://, moto for s3://.

They die with the process that started them. What must be built with Go is built once, into a folder outside of the
repository ($TPU_RETRAINING_TOOLS, else ~/.cache/tpu-retraining/bin), and only by tests that are marked slow.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

BUCKET = "bucket"
MANY = 1_500  # objects in gs://bucket/many/: more than a page of a listing
_TOOLS = pathlib.Path(os.environ.get("TPU_RETRAINING_TOOLS", "~/.cache/tpu-retraining/bin")).expanduser()
_PACKAGES = {
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server@v1.56.1",
    "prism": "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0",
}
_READY_SECONDS = 60


def go_tool(name: str, *, build: bool) -> pathlib.Path:
    """Returns a program that Go builds; skips the test where it is neither there nor may or can be built."""
    program = _TOOLS / name
    if program.exists():
        return program
    if not build:
        pytest.skip(f"{name} is not in {_TOOLS}; the slow tests build it with Go")
    if shutil.which("go") is None:
        pytest.skip(f"{name} is not in {_TOOLS} and there is no Go to build it")
    _TOOLS.mkdir(parents=True, exist_ok=True)
    command = ["nice", "-n", "10", "go", "install", _PACKAGES[name]]
    environment = os.environ | {"GOBIN": str(_TOOLS)}
    built = subprocess.run(command, check=False, cwd=_TOOLS, env=environment, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"Go cannot build {name}: {built.stderr.strip()[-200:]}")
    return program


def free_port() -> int:
    """Returns a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: Sequence[str | os.PathLike[str]], ready: str) -> Iterator[None]:
    """Runs a server until the block ends, which begins once the server answers a request for a URL."""
    # The kernel ends the server even if this process is killed.
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with subprocess.Popen([*bound, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while True:
                try:
                    request(ready)
                    break
                except OSError:
                    assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
                    assert time.monotonic() < deadline, f"{command[0]} does not answer"
                    time.sleep(0.1)
            yield
        finally:
            server.kill()


def request(url: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
    """Sends a request past any proxy and returns the answer's body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    message = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    with opener.open(message, timeout=10) as answer:
        content: bytes = answer.read()
        return content


@contextlib.contextmanager
def gcs_server(folder: pathlib.Path, *, build: bool = False) -> Iterator[dict[str, str]]:
    """Runs fake-gcs-server with a bucket of `MANY` objects; yields the environment that leads gcsfs to it."""
    program, port = go_tool("fake-gcs-server", build=build), free_port()
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed (extra [gcs])")
    many = folder / BUCKET / "many"
    many.mkdir(parents=True)
    for number in range(MANY):
        (many / f"{number:04}").write_text("x")
    url = f"http://127.0.0.1:{port}"
    place = ["-host", "127.0.0.1", "-port", str(port), "-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    with _running([program, "-backend", "memory", "-data", folder, "-scheme", "http", *place], f"{url}/storage/v1/b"):
        yield gcs_environment(url)


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Runs moto with an empty bucket; yields the environment that leads s3fs to it."""
    if importlib.util.find_spec("s3fs") is None or importlib.util.find_spec("moto") is None:
        pytest.skip("s3fs or moto[server] is not installed (extra [dev])")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _running([sys.executable, "-m", "tests.s3_front", str(port)], f"{url}/moto-api/"):
        request(f"{url}/{BUCKET}", method="PUT")
        yield s3_environment(url)


def gcs_environment(url: str) -> dict[str, str]:
    """Returns what leads gcsfs to a server that is not Google's, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else it asks Google what kind of bucket it is
        "FSSPEC_GS_TOKEN": "anon",
        "NO_GCE_CHECK": "true",
    }


def s3_environment(url: str) -> dict[str, str]:
    """Returns what leads s3fs to a server that is not Amazon's."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **credentials}


@contextlib.contextmanager
def entered(environment: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, for fsspec too if it is imported already."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        if "fsspec" in sys.modules:
            from fsspec.config import conf, set_conf_env

            set_conf_env(conf)
        yield


Answer = tuple[int, bytes]


@contextlib.contextmanager
def answering(answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """Runs a server that answers (method, path) with a status and a body; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
