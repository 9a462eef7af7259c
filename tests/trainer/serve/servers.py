"""Runs servers as users do, and talks to them over sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator

from benchmarks.process_tree import process_tree

ROOT = pathlib.Path(__file__).resolve().parents[3]
_START_SECONDS = 60


class Running:
    """Is a server process; what it has printed is in `lines`, and in `errors` what it has logged."""

    def __init__(self, *flags: str, code: str = "") -> None:
        start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "trainer.serve"]
        self.process = subprocess.Popen(
            [*start, "--port=0", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self._serving = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._serving.wait(_START_SECONDS), "".join(self.errors)
        assert self.url, f"ended with {self.process.poll()}: {''.join(self.errors)}"

    url = ""

    def _read(self) -> None:
        assert self.process.stderr
        self.errors.extend(self.process.stderr)

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving"):
                self.url = line.split()[1]
            if line.startswith("try"):
                self._serving.set()
        self._serving.set()

    @property
    def address(self) -> tuple[str, int]:
        parts = urllib.parse.urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def post_json(self, path: str, value: object) -> tuple[int, dict]:
        status, _, body = self.ask("POST", path, json.dumps(value), {"content-type": "application/json"})
        return status, json.loads(body)

    def photo(self, data: bytes, kind: str = "image/jpeg") -> tuple[int, dict]:
        status, _, body = self.ask("POST", "/predict", data, {"content-type": kind})
        return status, json.loads(body)

    def end(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def descendants(self) -> list[int]:
        """Lists what forks decoders, and the decoders."""
        return process_tree(self.process.pid)[1:]


@contextlib.contextmanager
def serving(*flags: str, code: str = "") -> Iterator[Running]:
    """Runs a server for as long as the block runs."""
    server = Running(*flags, code=code)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def form(files: dict[str, bytes], field: str = "image") -> tuple[bytes, dict[str, str]]:
    """Makes a multipart form of files, as browsers do."""
    boundary = "boundary-of-a-test"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files.items()
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}
